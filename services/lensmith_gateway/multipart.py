"""Takes a multipart upload apart while it arrives: files go to disk, nothing large stays in memory."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from lensmith_gateway.http_errors import TooLargeError
from lensmith_platform.errors import InvalidInputError

_MEBIBYTE = 1 << 20
_MAX_FIELD_BYTES = 16 * _MEBIBYTE
_MAX_FIELDS = 1000
_FLUSH_BYTES = _MEBIBYTE


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What one upload may hold.

    Attributes:
        files: most files.
        total_bytes: most bytes, all together.
        file_bytes: most bytes of one file.
    """

    files: int
    total_bytes: int
    file_bytes: int


@dataclass(slots=True)
class UploadedFile:
    """A file of an upload.

    Attributes:
        name: what the client calls it, for matching options; never a path on disk.
        size: its bytes; what is over the limit is counted but not kept.
        offset: where it begins in the upload's temporary file.
    """

    name: str
    size: int = 0
    offset: int = 0


@dataclass(slots=True)
class Upload:
    """A complete upload.

    Attributes:
        files: in the order in which they came.
        fields: plain form fields, name and value.
    """

    files: list[UploadedFile] = field(default_factory=list)
    fields: list[tuple[str, str]] = field(default_factory=list)
    _store: BinaryIO | None = None

    async def read(self, file: UploadedFile) -> bytes:
        """The bytes of one file, which must be within the limit."""
        return await asyncio.to_thread(self._read, file)

    def _read(self, file: UploadedFile) -> bytes:
        if self._store is None:
            return b""
        self._store.seek(file.offset)
        return self._store.read(file.size)


@asynccontextmanager
async def receive_upload(
    content_type: str, body: AsyncIterator[bytes], limits: UploadLimits, directory: str | None = None
) -> AsyncIterator[Upload]:
    """Receive a whole multipart body; its files are on disk while the block lasts, and gone after.

    Args:
        content_type: the request's header, with the boundary.
        body: the request's bytes as they come.
        limits: what it may hold.
        directory: where to keep files; ``None``: where the system keeps temporary ones.

    Raises:
        InvalidInputError: the body is not multipart, breaks off, or has too many parts.
        TooLargeError: it is larger than allowed.
    """
    kind, parameters = parse_options_header(content_type)
    boundary = parameters.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInputError(
            "CONTENT_TYPE_UNSUPPORTED",
            "An upload is a multipart/form-data body with a boundary, as `curl -F image=@photo.jpg` sends it.",
        )
    with tempfile.TemporaryFile(prefix="lensmith-upload-", dir=directory) as store:
        receiver = _Receiver(limits, store)
        try:
            parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": receiver.on_part_begin,
                    "on_part_data": receiver.on_part_data,
                    "on_part_end": receiver.on_part_end,
                    "on_header_field": receiver.on_header_field,
                    "on_header_value": receiver.on_header_value,
                    "on_header_end": receiver.on_header_end,
                    "on_headers_finished": receiver.on_headers_finished,
                    "on_end": receiver.on_end,
                },
            )
            async for chunk in body:
                receiver.count(len(chunk))
                parser.write(chunk)
                if len(receiver.pending) >= _FLUSH_BYTES:
                    await receiver.flush()
            parser.finalize()
        except FormParserError as error:
            raise InvalidInputError("UPLOAD_MALFORMED", f"The multipart body cannot be read: {error}.") from None
        if not receiver.complete:
            raise InvalidInputError("UPLOAD_INCOMPLETE", "The multipart body breaks off before its last boundary.")
        await receiver.flush()
        yield receiver.upload


class _Receiver:
    """Collects what the parser finds."""

    def __init__(self, limits: UploadLimits, store: BinaryIO) -> None:
        self.upload = Upload(_store=store)
        self.pending = bytearray()
        self.complete = False
        self._limits = limits
        self._store = store
        self._received = 0
        self._kept = 0
        self._field_bytes = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._file: UploadedFile | None = None
        self._field_name = ""
        self._field_value = bytearray()

    def count(self, size: int) -> None:
        """Take note of so many bytes received."""
        self._received += size
        if self._received > self._limits.total_bytes:
            limit = self._limits.total_bytes // _MEBIBYTE
            raise TooLargeError(
                "UPLOAD_TOO_LARGE",
                f"The upload is larger than the {limit} MiB allowed in one call; send the files in several.",
                metadata={"limit": "max_upload_bytes", "max": str(self._limits.total_bytes)},
            )

    async def flush(self) -> None:
        """Write what is pending to disk."""
        if self.pending:
            data, self.pending = self.pending, bytearray()
            await asyncio.to_thread(self._store.write, data)

    def on_part_begin(self) -> None:
        self._disposition = b""
        self._file = None

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise InvalidInputError("UPLOAD_MALFORMED", "A part of the upload has no name in Content-Disposition.")
        if b"filename" in options:
            if len(self.upload.files) == self._limits.files:
                raise InvalidInputError(
                    "TOO_MANY_FILES",
                    f"The upload has more than {self._limits.files} files, the most of one call.",
                    metadata={"limit": "max_upload_files", "max": str(self._limits.files)},
                )
            self._file = UploadedFile(_text(options[b"filename"]), offset=self._kept)
            self.upload.files.append(self._file)
        else:
            if len(self.upload.fields) == _MAX_FIELDS:
                raise InvalidInputError("TOO_MANY_FIELDS", f"The upload has more than {_MAX_FIELDS} form fields.")
            self._field_name = _text(options[b"name"])
            self._field_value = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        size = end - start
        if self._file is None:
            self._field_bytes += size
            if self._field_bytes > _MAX_FIELD_BYTES:
                raise TooLargeError(
                    "FIELDS_TOO_LARGE", f"The form fields are larger than {_MAX_FIELD_BYTES // _MEBIBYTE} MiB."
                )
            self._field_value += data[start:end]
            return
        room = max(self._limits.file_bytes - self._file.size, 0)
        self._file.size += size
        kept = data[start : start + min(size, room)]
        self.pending += kept
        self._kept += len(kept)

    def on_part_end(self) -> None:
        if self._file is None:
            self.upload.fields.append((self._field_name, _text(bytes(self._field_value))))

    def on_end(self) -> None:
        self.complete = True


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInputError("UPLOAD_MALFORMED", "A name or a field of the upload is not UTF-8 text.") from None
