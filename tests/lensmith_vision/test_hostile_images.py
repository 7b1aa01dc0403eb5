"""Files that are broken, lie or attack are refused with a reason, never with a crash."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from lensmith_vision.decode import ImageLimits, decode, inspect
from lensmith_vision.errors import ImageError

Encode = Callable[..., bytes]


def reason_of(data: bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(ImageError) as refused:
        inspect(data, limits)
    with pytest.raises(ImageError):
        decode(data, limits, min_side_hint=32)
    assert str(refused.value)
    return refused.value.reason


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_inspect_refuses_before_decoding_when_header_is_a_bomb() -> None:
    assert reason_of(png_header(50_000, 50_000)) == "IMAGE_TOO_MANY_PIXELS"
    assert reason_of(png_header(2_000_000_000, 2_000_000_000)) == "IMAGE_TOO_MANY_PIXELS"
    assert reason_of(png_header(12_000, 12_000)) == "IMAGE_TOO_MANY_PIXELS"
    assert reason_of(png_header(0, 10)) in ("IMAGE_TOO_SMALL", "IMAGE_CORRUPT", "IMAGE_NOT_AN_IMAGE")


def test_inspect_refuses_when_limits_are_crossed(encode: Encode, picture: Image.Image) -> None:
    data = encode(picture, "PNG")
    assert reason_of(data, ImageLimits(max_bytes=100)) == "IMAGE_TOO_LARGE"
    assert reason_of(data, ImageLimits(max_pixels=160 * 120 - 1)) == "IMAGE_TOO_MANY_PIXELS"
    assert reason_of(data, ImageLimits(max_side=159)) == "IMAGE_TOO_MANY_PIXELS"
    assert reason_of(data, ImageLimits(min_side=121)) == "IMAGE_TOO_SMALL"
    assert reason_of(encode(Image.new("RGB", (260, 10)), "PNG")) == "IMAGE_ASPECT_RATIO"
    assert inspect(encode(Image.new("RGB", (250, 10)), "PNG")).width == 250
    assert inspect(encode(Image.new("RGB", (1, 1)), "PNG")).height == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "IMAGE_EMPTY"),
        (b"\x00", "IMAGE_NOT_AN_IMAGE"),
        (b"hello, I am text" * 10, "IMAGE_NOT_AN_IMAGE"),
        (b"%PDF-1.7 ...", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"<?xml version='1.0'?><svg/>", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"\n  <svg xmlns='http://www.w3.org/2000/svg'/>", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "IMAGE_TRUNCATED"),
        (b"\x89PNG\r\n\x1a\n" + b"\x07" * 60, "IMAGE_CORRUPT"),
    ],
)
def test_inspect_names_the_reason_when_bytes_are_no_picture(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_inspect_refuses_when_bytes_are_random() -> None:
    generator = random.Random(7)
    for size in (1, 7, 16, 100, 5_000, 100_000):
        reason_of(generator.randbytes(size))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_inspect_refuses_when_file_is_cut_anywhere(encode: Encode, picture: Image.Image, format: str) -> None:
    data = encode(picture, format)
    # The last bytes of some formats are only an end mark, so that the picture is whole without them.
    for end in range(0, int(len(data) * 0.9), max(1, len(data) // 60)):
        assert reason_of(data[:end]).startswith("IMAGE_")
    if format in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        assert reason_of(data[: len(data) // 2]) == "IMAGE_TRUNCATED"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_decode_never_crashes_when_bytes_are_altered(encode: Encode, picture: Image.Image, format: str) -> None:
    generator = random.Random(format)
    original = encode(picture, format)
    refused = 0
    for _ in range(120):
        data = bytearray(original)
        for _ in range(generator.choice((1, 3, 20))):
            end = min(200, len(data)) if generator.random() < 0.5 else len(data)
            data[generator.randrange(end)] = generator.randrange(256)
        try:
            decode(bytes(data), ImageLimits(max_pixels=1_000_000))
        except ImageError:
            refused += 1
    assert refused > 0


def test_inspect_refuses_when_real_file_is_corrupt(near_duplicates: Path) -> None:
    assert (
        reason_of((near_duplicates / "mixed_images" / "ukbench09268_corrupt.jpg").read_bytes()) == "IMAGE_NOT_AN_IMAGE"
    )
