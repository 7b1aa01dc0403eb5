"""Taking multipart bodies and their options apart, without a server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lensmith_gateway.multipart import Upload, UploadedFile, UploadLimits, receive_upload
from lensmith_gateway.uploads import read_options
from lensmith_platform.errors import InvalidInputError

LIMITS = UploadLimits(files=2, total_bytes=200_000, file_bytes=1000)
KIND = "multipart/form-data; boundary=B"


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    """The body in pieces of that size, as a network may cut it."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


def file_part(name: str, data: bytes) -> bytes:
    return (
        b'--B\r\nContent-Disposition: form-data; name="image"; filename="'
        + name.encode()
        + b'"\r\n\r\n'
        + data
        + b"\r\n"
    )


def field_part(name: str, value: bytes) -> bytes:
    return b'--B\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + value + b"\r\n"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_parts_come_out_whole_when_body_arrives_in_pieces(size: int, tmp_path: Path) -> None:
    body = file_part("a b.jpg", b"\r\n--B\xff" * 9) + field_part("concept", b"gl\xc3\xa4ss") + file_part("c", b"")
    async with receive_upload(KIND, pieces(body + b"--B--\r\n", size), LIMITS, str(tmp_path)) as upload:
        # The data holds what looks like a boundary, but no boundary follows a part that way.
        assert upload.fields == [("concept", "gläss")]
        assert [(file.name, file.size) for file in upload.files][-1] == ("c", 0)


async def test_bytes_come_out_as_they_went_in_when_files_are_read(tmp_path: Path) -> None:
    first, second = bytes(range(256)) * 3, b"\x00" * 900
    body = file_part("a", first) + field_part("concept", b"x") + file_part("b", second) + b"--B--\r\n"
    async with receive_upload(KIND, pieces(body, 100), LIMITS, str(tmp_path)) as upload:
        assert [await upload.read(file) for file in reversed(upload.files)] == [second, first]


async def test_large_file_is_counted_but_not_kept_when_over_the_limit(tmp_path: Path) -> None:
    body = file_part("large", b"x" * 150_000) + file_part("small", b"y" * 10) + b"--B--\r\n"
    async with receive_upload(KIND, pieces(body, 5000), LIMITS, str(tmp_path)) as upload:
        large, small = upload.files
        assert large.size == 150_000
        assert small.offset == 1000
        assert await upload.read(small) == b"y" * 10


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("application/json", b"{}", "CONTENT_TYPE_UNSUPPORTED"),
        ("multipart/form-data", b"--B--", "CONTENT_TYPE_UNSUPPORTED"),
        ("", b"", "CONTENT_TYPE_UNSUPPORTED"),
        (KIND, b"no boundary here", "UPLOAD_MALFORMED"),
        (KIND, b"", "UPLOAD_INCOMPLETE"),
        (KIND, b"--B\r\n\r\nx\r\n--B--\r\n", "UPLOAD_MALFORMED"),
        (KIND, file_part("a", b"half a pict")[:-2], "UPLOAD_INCOMPLETE"),
        (KIND, file_part("a", b"no last boundary"), "UPLOAD_INCOMPLETE"),
        (KIND, field_part("concept", b"\xff\xfe") + b"--B--\r\n", "UPLOAD_MALFORMED"),
        ("multipart/form-data; boundary=" + "B" * 500, b"x", "UPLOAD_MALFORMED"),
        (KIND, b"--B\r\n" + b"X" * 100_000, "UPLOAD_MALFORMED"),
        (KIND, b"--B\r\n" + b"X: y\r\n" * 50, "UPLOAD_MALFORMED"),
        (KIND, file_part("a", b"x") * 3, "TOO_MANY_FILES"),
        (KIND, field_part("concept", b"x") * 1001, "TOO_MANY_FIELDS"),
        (KIND, file_part("a", b"x" * 200_000), "UPLOAD_TOO_LARGE"),
    ],
)
async def test_body_is_refused_when_it_is_no_upload(kind: str, body: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        async with receive_upload(kind, pieces(body, 4096), LIMITS, str(tmp_path)):
            pytest.fail("it was taken")
    assert refusal.value.reason == reason


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ([("nope", "1")], "nope"),
        ([("allow_duplicate", "yes")], "allow_duplicate"),
        ([("options", "{")], "options"),
        ([("options", "[]")], "options"),
        ([("options", "[" * 100_000)], "options"),
        ([("options", '{"nope": 1}')], "options.nope"),
        ([("options", '{"allow_duplicate": 1}')], "options.allow_duplicate"),
        ([("options", '{"request_id": "' + "x" * 57 + '"}')], "options.request_id"),
        ([("options", '{"files": []}')], "options.files"),
        ([("options", '{"files": {"other.jpg": {}}}')], "options.files"),
        ([("options", '{"files": {"a.jpg": []}}')], "options.files[a.jpg]"),
        ([("options", '{"files": {"a.jpg": {"nope": 1}}}')], "options.files[a.jpg]"),
        ([("options", '{"files": {"a.jpg": {"image": {"url": "http://x"}}}}')], "options.files[a.jpg]"),
    ],
)
def test_options_are_refused_by_name_when_one_is_wrong(fields: list[tuple[str, str]], place: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        read_options(Upload([UploadedFile("a.jpg")], fields))
    assert refusal.value.reason == "UPLOAD_OPTIONS_INVALID"
    assert refusal.value.field_violations[0][0] == place
