"""Turns a multipart upload into `InputService.CreateInputs` calls: for browsers, curl and everything without gRPC."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from google.protobuf import json_format

from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.input_service_pb2 import CreateInputResult, CreateInputsRequest, CreateInputsResponse, NewInput
from lensmith_gateway.multipart import Upload, UploadedFile, UploadLimits, receive_upload
from lensmith_platform.errors import InvalidInputError, LensmithError, from_rpc_error, to_status

if TYPE_CHECKING:
    from lensmith_api.v1.input_service_pb2_grpc import InputServiceAsyncStub

_MAX_REQUEST_ID = 56
_OPTIONS = frozenset({"allow_duplicate", "request_id", "files"})
_FIELDS = "`options` (JSON), `concept` (once or more) and `allow_duplicate`"


@dataclass(slots=True)
class UploadOptions:
    """What the form fields of an upload say.

    Attributes:
        concepts: own ids of concepts that every picture shows.
        allow_duplicate: whether bytes that the app has already become a second input.
        request_id: makes a repeated upload add nothing twice.
        files: by file name, everything of its input but the picture.
    """

    concepts: list[str] = field(default_factory=list)
    allow_duplicate: bool = False
    request_id: str = ""
    files: dict[str, NewInput] = field(default_factory=dict)


class Uploads:
    """Adds uploaded files to an app.

    Args:
        inputs: dataset's API; the caller's own credentials are passed on to it.
        limits: what one upload may hold.
        batch_bytes: most bytes of pictures in one call to dataset.
        batch_seconds: deadline of such a call.
        directory: where files wait.
    """

    def __init__(
        self,
        inputs: "InputServiceAsyncStub",
        limits: UploadLimits,
        *,
        batch_bytes: int,
        batch_seconds: float,
        directory: str | None = None,
    ) -> None:
        self._inputs = inputs
        self._limits = limits
        self._batch_bytes = batch_bytes
        self._batch_seconds = batch_seconds
        self._directory = directory

    async def add(
        self, parent: str, content_type: str, body: AsyncIterator[bytes], metadata: Sequence[tuple[str, str]]
    ) -> CreateInputsResponse:
        """Receive an upload whole, then add its files in batches.

        Args:
            parent: `apps/{app}`.
            content_type: the request's header.
            body: the request's bytes as they come.
            metadata: what goes with each call to dataset: the caller's credentials, request id and trace.

        Returns:
            One result for each file in the order of the upload. Where a batch fails as a whole after another one
            succeeded, its files carry the error.

        Raises:
            LensmithError: nothing was added.
        """
        async with receive_upload(content_type, body, self._limits, self._directory) as upload:
            options = read_options(upload)
            if not upload.files:
                raise InvalidInputError("UPLOAD_EMPTY", "The upload has no file: send `-F image=@photo.jpg`.")
            return await self._add(parent, upload, options, metadata)

    async def _add(
        self, parent: str, upload: Upload, options: UploadOptions, metadata: Sequence[tuple[str, str]]
    ) -> CreateInputsResponse:
        results = [CreateInputResult() for _ in upload.files]
        failure: LensmithError | None = None
        added = False
        for number, places in enumerate(self._batches(upload.files)):
            files = [upload.files[place] for place in places]
            request = CreateInputsRequest(parent=parent, allow_duplicate=options.allow_duplicate)
            if options.request_id:
                request.request_id = f"{options.request_id}-{number}"
            for file in files:
                request.inputs.append(new_input(file, await upload.read(file), options))
            try:
                response = await self._inputs.CreateInputs(request, timeout=self._batch_seconds, metadata=metadata)
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                answers: Sequence[CreateInputResult] = [CreateInputResult(status=to_status(failure))] * len(files)
            else:
                added = True
                answers = response.results
            for place, answer in zip(places, answers, strict=True):
                results[place].CopyFrom(answer)
        if failure is not None and not added:
            raise failure
        for file, result in zip(upload.files, results, strict=True):
            if file.size > self._limits.file_bytes:
                result.status.CopyFrom(to_status(self._too_large(file)))
        return CreateInputsResponse(results=results)

    def _batches(self, files: Sequence[UploadedFile]) -> Iterator[list[int]]:
        """Places of the files within the limit, in groups that fit one call."""
        batch: list[int] = []
        size = 0
        for place, file in enumerate(files):
            if file.size > self._limits.file_bytes:
                continue
            if batch and size + file.size > self._batch_bytes:
                yield batch
                batch, size = [], 0
            batch.append(place)
            size += file.size
        if batch:
            yield batch

    def _too_large(self, file: UploadedFile) -> InvalidInputError:
        limit = self._limits.file_bytes
        return InvalidInputError(
            "IMAGE_TOO_LARGE",
            f"The file has {file.size} bytes; at most {limit} are allowed.",
            metadata={"limit": "max_file_bytes", "max": str(limit)},
        )


def new_input(file: UploadedFile, content: bytes, options: UploadOptions) -> NewInput:
    """The input that a file and the options make."""
    item = NewInput()
    if (given := options.files.get(file.name)) is not None:
        item.CopyFrom(given)
    item.image.content = content
    said = {annotation.concept for annotation in item.annotations}
    item.annotations.extend(Annotation(concept=name, positive=True) for name in options.concepts if name not in said)
    return item


def read_options(upload: Upload) -> UploadOptions:
    """Read the form fields of an upload.

    Raises:
        InvalidInputError: a field is unknown or wrong; the message names it.
    """
    options = UploadOptions()
    for name, value in upload.fields:
        if name == "concept":
            if value not in options.concepts:
                options.concepts.append(value)
        elif name == "allow_duplicate":
            if value not in {"true", "false"}:
                raise _invalid(name, "allow_duplicate is `true` or `false`.")
            options.allow_duplicate = value == "true"
        elif name == "options":
            _read_json(value, options)
        else:
            raise _invalid(name, f"The form field {name} is unknown; an upload has files and the fields {_FIELDS}.")
    known = {file.name for file in upload.files}
    if strangers := sorted(options.files.keys() - known):
        raise _invalid("options.files", f"`options.files` names {strangers[0]}, which is not among the files.")
    return options


def _read_json(text: str, options: UploadOptions) -> None:
    try:
        given = json.loads(text)
        # Half a surrogate pair passes as an escape, and no message can carry it.
        json.dumps(given, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _invalid("options", f"The form field options is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise _invalid("options", "The form field options is not a JSON object.")
    if strangers := sorted(given.keys() - _OPTIONS):
        raise _invalid(f"options.{strangers[0]}", f"`options` knows {', '.join(sorted(_OPTIONS))}, not {strangers[0]}.")
    allow = given.get("allow_duplicate", options.allow_duplicate)
    if not isinstance(allow, bool):
        raise _invalid("options.allow_duplicate", "`options.allow_duplicate` is true or false.")
    request_id = given.get("request_id", "")
    if not isinstance(request_id, str) or len(request_id) > _MAX_REQUEST_ID:
        raise _invalid("options.request_id", f"`options.request_id` is a text of at most {_MAX_REQUEST_ID} characters.")
    files = given.get("files", {})
    if not isinstance(files, dict):
        raise _invalid("options.files", "`options.files` is an object of options by file name.")
    options.allow_duplicate, options.request_id = allow, request_id
    options.files.update({name: _file_options(name, value) for name, value in files.items()})


def _file_options(name: str, value: object) -> NewInput:
    place = f"options.files[{name}]"
    if not isinstance(value, dict):
        raise _invalid(place, f"`{place}` is not a JSON object.")
    try:
        item = json_format.ParseDict(value, NewInput())
    except (json_format.ParseError, RecursionError) as error:
        raise _invalid(place, f"`{place}` cannot be read: {error}.") from None
    if item.HasField("image"):
        raise _invalid(place, f"`{place}` gives an image, which the file itself is.")
    return item


def _invalid(name: str, message: str) -> InvalidInputError:
    return InvalidInputError("UPLOAD_OPTIONS_INVALID", message, field_violations=[(name, message)])
