"""Between protos and rows. What a user sent is checked here, as far as the contract's own rules do not."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.rpc.status_pb2 import Status

from lensmith_api.internal.v1.training_data_service_pb2 import (
    ConceptCount,
    NearestTrainingInput,
    TrainingInput,
    TrainingLabel,
)
from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.annotation_service_pb2 import AnnotateAction, InputAnnotation
from lensmith_api.v1.concept_pb2 import Concept
from lensmith_api.v1.input_pb2 import Input, InputStatus
from lensmith_dataset.general_concepts import general_to_proto
from lensmith_dataset.store.annotations import Action, AnnotationRow
from lensmith_dataset.store.concepts import ConceptRow, LabelCounts
from lensmith_dataset.store.general import GeneralConcepts
from lensmith_dataset.store.inputs import InputRow
from lensmith_dataset.store.labels import Label
from lensmith_dataset.store.nearest import NearInput
from lensmith_dataset.store.training_data import TrainingCount, TrainingState
from lensmith_dataset.vectors import float16_from_halfvec
from lensmith_platform import timestamps
from lensmith_platform.errors import InvalidInputError
from lensmith_platform.resource_names import build
from lensmith_vision.targets import MAX_NUMBER

_ACTIONS: Mapping[int, Action] = {
    AnnotateAction.ANNOTATE_ACTION_UNSPECIFIED: "merge",
    AnnotateAction.ANNOTATE_ACTION_MERGE: "merge",
    AnnotateAction.ANNOTATE_ACTION_SET: "set",
    AnnotateAction.ANNOTATE_ACTION_REMOVE: "remove",
}


def input_name(app: str, row: InputRow) -> str:
    """Return the resource name of an input: by its own id, or its uid where it has none."""
    return build("apps/{app}/inputs/{input}", app=app, input=row.own_id or str(row.uid))


def input_to_proto(
    app: str, row: InputRow, annotations: Iterable[AnnotationRow], seen: GeneralConcepts | None = None
) -> Input:
    """Convert an input of the app with this own id."""
    message = Input(
        name=input_name(app, row),
        uid=str(row.uid),
        status=cast("InputStatus.ValueType", row.status),
        sha256=row.sha256.hex(),
        size_bytes=row.size_bytes,
        mime_type=row.mime_type,
        width=row.width,
        height=row.height,
        source_url=row.source_url,
        test=row.test,
        annotations=[annotation_to_proto(annotation) for annotation in annotations],
        create_time=timestamps.to_proto(row.created_at),
        update_time=timestamps.to_proto(row.updated_at),
        etag=str(row.revision),
    )
    if row.error is not None:
        message.error.CopyFrom(Status.FromString(row.error))
    if row.metadata is not None:
        message.metadata.update(row.metadata)
    if seen is not None:
        message.general_version, scores = general_to_proto(seen)
        message.general_concepts.extend(scores)
    return message


def annotation_to_proto(row: AnnotationRow) -> Annotation:
    """Convert an annotation."""
    message = Annotation(concept=row.concept, actor=row.actor, update_time=timestamps.to_proto(row.updated_at))
    if row.number is not None:
        message.number = row.number
    else:
        message.positive = bool(row.positive)
    return message


def input_annotation_to_proto(app: str, row: AnnotationRow) -> InputAnnotation:
    """Convert an annotation with the name of its input."""
    name = build("apps/{app}/inputs/{input}", app=app, input=row.input_own_id or str(row.input_uid))
    return InputAnnotation(input=name, annotation=annotation_to_proto(row))


def concept_to_proto(app: str, row: ConceptRow, counts: LabelCounts) -> Concept:
    """Convert a concept of the app with this own id."""
    return Concept(
        name=build("apps/{app}/concepts/{concept}", app=app, concept=row.own_id),
        uid=str(row.uid),
        display_name=row.display_name or row.own_id,
        description=row.description,
        positive_count=counts.positive,
        negative_count=counts.negative,
        number_count=counts.number,
        create_time=timestamps.to_proto(row.created_at),
        update_time=timestamps.to_proto(row.updated_at),
        etag=str(row.revision),
    )


def concept_count_to_proto(count: TrainingCount) -> ConceptCount:
    """Convert what there is to train a concept on."""
    return ConceptCount(
        concept=count.concept,
        display_name=count.display_name or count.concept,
        positives=count.positives,
        negatives=count.negatives,
        numbers=count.numbers,
    )


def training_input_to_proto(state: TrainingState) -> TrainingInput:
    """Convert the state of an input."""
    item = TrainingInput()
    fill_training_input(item, state)
    return item


def fill_training_input(item: TrainingInput, state: TrainingState) -> None:
    """Write the state of an input into an empty message: one of a stream is not copied into it."""
    item.input_uid = str(state.uid)
    if state.deleted:
        item.deleted = True
        return
    item.sha256, item.test = state.sha256, state.test
    item.vector = float16_from_halfvec(state.vector)
    for label in state.labels:
        said = item.labels.add()
        said.concept = label.concept
        if label.number is not None:
            said.number = label.number
        else:
            said.positive = bool(label.positive)


def near_input_to_proto(app: str, row: NearInput) -> NearestTrainingInput:
    """Convert an input of the app with this own id that is like a picture."""
    return NearestTrainingInput(
        input=build("apps/{app}/inputs/{input}", app=app, input=row.own_id or str(row.uid)),
        similarity=row.similarity,
        labels=[training_label_to_proto(label) for label in row.labels],
    )


def training_label_to_proto(label: Label) -> TrainingLabel:
    """Convert what is said about one concept in an input."""
    if label.number is not None:
        return TrainingLabel(concept=label.concept, number=label.number)
    return TrainingLabel(concept=label.concept, positive=bool(label.positive))


def action_from_proto(action: int) -> Action:
    """Convert an action.

    Raises:
        InvalidInputError: ANNOTATE_ACTION_UNKNOWN; a later version of the API may know it.
    """
    if action not in _ACTIONS:
        raise InvalidInputError("ANNOTATE_ACTION_UNKNOWN", f"there is no annotate action number {action}")
    return _ACTIONS[action]


def check_annotation_count(count: int, limit: int) -> None:
    """Refuse a call with more annotations than are changed at once.

    Raises:
        InvalidInputError: TOO_MANY_ANNOTATIONS.
    """
    if count > limit:
        raise InvalidInputError(
            "TOO_MANY_ANNOTATIONS",
            f"the call has {count} annotations; at most {limit} are taken (max_annotations)",
            metadata={"limit": "max_annotations", "max": str(limit)},
        )


def labels_from_proto(annotations: Sequence[Annotation]) -> list[Label]:
    """Convert annotations that a user sent; positive where no value is set.

    Raises:
        InvalidInputError: NUMBER_NOT_FINITE, NUMBER_OUT_OF_RANGE or CONCEPT_MISSING.
    """
    labels = []
    for annotation in annotations:
        if not annotation.concept:
            raise InvalidInputError("CONCEPT_MISSING", "an annotation must name its concept")
        if annotation.WhichOneof("value") != "number":
            positive = annotation.positive if annotation.HasField("positive") else True
            labels.append(Label(annotation.concept, positive=positive))
        else:
            labels.append(Label(annotation.concept, number=_number(annotation)))
    return labels


def _number(annotation: Annotation) -> float:
    number, said = annotation.number, f"the number annotated for {annotation.concept!r} is {annotation.number:g}"
    if not math.isfinite(number):
        raise InvalidInputError(
            "NUMBER_NOT_FINITE", f"{said}; it must be finite", metadata={"concept": annotation.concept}
        )
    if abs(number) > MAX_NUMBER:
        raise InvalidInputError(
            "NUMBER_OUT_OF_RANGE",
            f"{said}; it must lie between {-MAX_NUMBER:g} and {MAX_NUMBER:g}: take another unit",
            metadata={"concept": annotation.concept, "min": f"{-MAX_NUMBER:g}", "max": f"{MAX_NUMBER:g}"},
        )
    return number


def metadata_from_proto(metadata: Struct, max_bytes: int) -> Mapping[str, Any]:
    """Convert metadata that a user sent.

    Raises:
        InvalidInputError: METADATA_TOO_LARGE, or METADATA_INVALID: what JSON or the database cannot hold.
    """
    try:
        values: dict[str, Any] = MessageToDict(metadata)
        text = json.dumps(values, allow_nan=False, ensure_ascii=False)
    except (ValueError, JsonError) as error:
        raise InvalidInputError("METADATA_INVALID", f"metadata is not JSON: {error}") from None
    if len(text.encode()) > max_bytes:
        raise InvalidInputError(
            "METADATA_TOO_LARGE",
            f"metadata has {len(text.encode())} bytes as JSON; at most {max_bytes} are kept (max_metadata_bytes)",
            metadata={"limit": "max_metadata_bytes", "max": str(max_bytes)},
        )
    if "\\u0000" in text and _holds_nul(values):
        raise InvalidInputError("METADATA_INVALID", "metadata holds the character NUL, which cannot be kept")
    return values


def _holds_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_holds_nul(part) for part in value)
    return isinstance(value, str) and "\x00" in value
