"""Public models that come with base models: the classifier of a pack becomes a version of one.

A classifier that tells ImageNet's classes apart is a version of General, whichever network it belongs to; any other is
a model of its own, named like its pack.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import AlreadyExistsError, NotFoundError
from lensmith_platform.principal import MAIN_APP, MAIN_APP_ID
from lensmith_registry import changes, store, version_store
from lensmith_registry.base_model_store import BaseModelRow
from lensmith_registry.converters import json_from_message, model_to_proto
from lensmith_registry.store import ModelDefinition, ModelRow
from lensmith_registry.version_store import NewVersion
from lensmith_vision.card import Card
from lensmith_vision.general import MODEL_ID, Calibration, hierarchy

__all__ = ["Classifier", "classifier_of", "concept_ids", "publish", "public_model_id", "withdraw"]

_ACTOR = "services/registry"
_FORBIDDEN = re.compile(r"[/\x00-\x1f\x7f]+")
_OWN_THRESHOLD = 0.5


@dataclass(frozen=True)
class Classifier:
    """What a public model says, as the classifier of a pack makes it.

    Attributes:
        taxonomy: Of its classes, where the concepts are sums over them; else empty.
        temperature: What its logits are divided by.
        concepts: Own ids.
        display_names: Names for people, in the same order.
        thresholds: In the same order.
    """

    definition: ModelDefinition
    taxonomy: str
    temperature: float
    concepts: Sequence[str]
    display_names: Sequence[str]
    thresholds: Sequence[float]


def public_model_id(card: Card) -> str:
    """Return the own id of the public model that a pack's classifier is a version of."""
    return MODEL_ID if card.logits is not None and card.logits.taxonomy else card.id


def classifier_of(card: Card, labels: Sequence[str], calibration: Calibration | None) -> Classifier:
    """Describe the classifier of a pack.

    Args:
        card: The pack's card.
        labels: Names of all its logits.
        calibration: Of General, where the pack has one.
    """
    if card.logits is not None and card.logits.taxonomy:
        return _general(card.logits.taxonomy, calibration or Calibration())
    ignored = set(card.logits.ignored) if card.logits is not None else set()
    # Logits that name nothing (a background class) are no concepts; inference leaves them out as well.
    names = [label for index, label in enumerate(labels) if index not in ignored]
    kind = "multi_label" if card.logits is not None and card.logits.activation == "sigmoid" else "multi_class"
    return Classifier(
        definition=_definition(card.display_name, card.description, kind),
        taxonomy="",
        temperature=1.0,
        concepts=concept_ids(names),
        display_names=names,
        thresholds=[_OWN_THRESHOLD] * len(names),
    )


def concept_ids(labels: Sequence[str]) -> list[str]:
    """Make own ids of concepts from labels: no slash or control character, 128 characters, each one once."""
    ids: list[str] = []
    seen: set[str] = set()
    for label in labels:
        plain = _FORBIDDEN.sub("-", label)[:120] or "concept"
        candidate, copy = plain, 2
        while candidate in seen:
            candidate, copy = f"{plain}-{copy}", copy + 1
        seen.add(candidate)
        ids.append(candidate)
    return ids


async def publish(connection: Connection, base: BaseModelRow, classifier: Classifier) -> None:
    """Make the classifier of a base model that was just stored a public model, or a version of it.

    Of General, the version on the base model of the highest rank is in production, in whichever order they came.

    Raises:
        AlreadyExistsError: A model of that name was trained here.
    """
    model = await _locked(connection, base.model, classifier.definition)
    if not model.imported:
        raise AlreadyExistsError("MODEL_EXISTS", f"{model.name} is a model of its own", metadata={"model": model.model})
    number = await store.next_number(connection, model)
    await version_store.insert_version(
        connection,
        model,
        number,
        NewVersion(
            space=base.space,
            base_model=base.name,
            model_snapshot=json_from_message(model_to_proto(replace(model, production_version=number))),
            seed=0,
            concepts=classifier.concepts,
            display_names=classifier.display_names,
            findings=[],
            note=f"classifier of {base.name} version {base.version}",
            actor=_ACTOR,
            thresholds=classifier.thresholds,
            taxonomy=classifier.taxonomy,
            temperature=classifier.temperature,
            ready=True,
        ),
    )
    await version_store.follow_best_base(connection, model.app_id, model.id)
    await changes.model_changed(connection, MAIN_APP_ID, model.model)


async def withdraw(connection: Connection, base: BaseModelRow) -> None:
    """Remove the versions that came with a base model, and their model with the last of them."""
    try:
        model = await store.lock_model(connection, MAIN_APP_ID, base.model)
    except NotFoundError:
        return
    await version_store.remove_versions_on(connection, model, base.name)
    if not await version_store.newest_ready(connection, model):
        await store.remove_model(connection, model)
    else:
        await version_store.follow_best_base(connection, model.app_id, model.id)
    await changes.model_changed(connection, MAIN_APP_ID, model.model)


async def _locked(connection: Connection, model_id: str, definition: ModelDefinition) -> ModelRow:
    """Lock the model, made first where it is new."""
    try:
        return await store.lock_model(connection, MAIN_APP_ID, model_id)
    except NotFoundError:
        pass
    try:
        return await store.insert_model(
            connection, MAIN_APP_ID, MAIN_APP, model_id, definition, actor=_ACTOR, imported=True
        )
    except AlreadyExistsError:
        # Another process has just installed the first of its packs.
        return await store.lock_model(connection, MAIN_APP_ID, model_id)


def _general(taxonomy: str, calibration: Calibration) -> Classifier:
    concepts = hierarchy().concepts
    text = (
        f"What any picture shows, in {len(concepts)} everyday concepts: things, and everything that they are kinds of."
    )
    return Classifier(
        definition=_definition("General", text, "multi_label"),
        taxonomy=taxonomy,
        temperature=calibration.temperature,
        concepts=[one.id for one in concepts],
        display_names=[one.name for one in concepts],
        thresholds=calibration.of_all().tolist(),
    )


def _definition(display_name: str, description: str, kind: str) -> ModelDefinition:
    return ModelDefinition(display_name, description, kind, (), False, "", None, None)
