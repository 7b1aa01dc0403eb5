"""Values of a request are counted before it is parsed."""

import pytest

from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.input_pb2 import Image
from lensmith_api.v1.input_service_pb2 import CreateInputsRequest, NewInput
from lensmith_platform import wire
from lensmith_platform.errors import InvalidInputError

DESCRIPTOR = CreateInputsRequest.DESCRIPTOR


def test_a_request_of_pictures_passes_whatever_its_size() -> None:
    picture = bytes(range(256)) * 4096
    request = CreateInputsRequest(
        parent="apps/a", inputs=[NewInput(image=Image(content=picture), annotations=[Annotation(concept="c")])] * 20
    )
    data = request.SerializeToString()
    assert len(data) > 20 * wire.SMALL_BYTES
    wire.check(data, DESCRIPTOR)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x12\x00" * (4 << 20), id="empty inputs"),
        pytest.param(b"\x2a\x00" * (4 << 20), id="unknown fields"),
        pytest.param(
            CreateInputsRequest(inputs=[NewInput.FromString(b"\x2a\x00" * (1 << 20))]).SerializeToString(),
            id="empty annotations of one input",
        ),
    ],
)
def test_a_request_of_very_many_values_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError) as caught:
        wire.check(data, DESCRIPTOR)
    assert caught.value.reason == "REQUEST_TOO_MANY_VALUES"


@pytest.mark.parametrize("tail", [b"\xff" * 20, b"\x12\xff\xff\xff\xff\x0f", b"\x07", b"\x12", b"\x0d\x01"])
def test_what_is_no_message_is_left_to_the_parser(tail: bytes) -> None:
    filler = CreateInputsRequest(inputs=[NewInput(image=Image(content=bytes(wire.SMALL_BYTES)))]).SerializeToString()
    wire.check(filler + tail, DESCRIPTOR)
