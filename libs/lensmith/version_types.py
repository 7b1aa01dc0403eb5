"""What the SDK tells of how a version came about."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from json import dumps

from lensmith.types import Annotation, BaseModel, Evaluation, Model, ModelVersion


@dataclass(frozen=True)
class ModelVersionInput:
    """An input as a version was trained on it.

    Attributes:
        id: Own id as it is now; the uid where it has none or is gone.
        sha256: Of its file.
        annotations: What it was annotated with, of the concepts that matter to the version.
        fold: Fold of the cross-validation in which it was held out; None where it was in none.
    """

    id: str
    uid: str
    sha256: str
    annotations: tuple[Annotation, ...]
    fold: int | None


@dataclass(frozen=True)
class ModelCard:
    """All that is known of how a version came about.

    Attributes:
        model: The model as it stood when the version was queued; None of one that came with a base model.
        display_names: Names for people of the version's concepts, in their order.
        base_model: None where it is installed no more.
        evaluation: None where it was not evaluated on this platform.
        cautions: What to keep in mind when using it.
    """

    name: str
    version: ModelVersion
    model: Model | None
    display_names: tuple[str, ...]
    base_model: BaseModel | None
    evaluation: Evaluation | None
    cautions: tuple[str, ...]


def inputs_sha256(inputs: Iterable[ModelVersionInput]) -> str:
    """Hash a whole listing; equals the version's `dataset_sha256` where nothing was added, left out or changed.

    The hash is that of one line of JSON for each input, `["uid", "sha256", {"concept": true | false | number}]`.
    """
    digest = sha256()
    for item in inputs:
        labels = {one.concept: one.positive if one.number is None else one.number for one in item.annotations}
        digest.update((dumps([item.uid, item.sha256, labels], sort_keys=True) + "\n").encode())
    return digest.hexdigest()
