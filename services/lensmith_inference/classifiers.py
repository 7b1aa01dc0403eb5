"""The weights of the classifiers that base models bring with them, found out once for each."""

import asyncio
from functools import partial

import numpy as np

from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_inference.artefacts import Artefacts
from lensmith_inference.pinned_lru import PinnedLru
from lensmith_platform.errors import InternalError, PreconditionError
from lensmith_vision.card import MODEL_FILE, Card
from lensmith_vision.errors import VisionError
from lensmith_vision.explain import Classifier
from lensmith_vision.graph_parts import read_classifier

__all__ = ["Classifiers"]

_MOST = 8


class Classifiers:
    """Remembers the classifiers of the base models that were explained last.

    Args:
        artefacts: Where packs come from.
    """

    def __init__(self, artefacts: Artefacts) -> None:
        self._artefacts = artefacts
        self._known: PinnedLru[str, Classifier] = PinnedLru(_MOST, cost=lambda _: 1, drop=lambda key, value: None)

    async def get(self, base_model: BaseModel, card: Card) -> Classifier:
        """Return the classifier of a base model, without the classes that its card ignores.

        Raises:
            PreconditionError: It is not linear in the last feature map: what it says cannot be shared among its cells.
            LensmithError: The pack cannot be had.
        """
        async with self._known.use(base_model.space, partial(self._load, base_model, card)) as classifier:
            return classifier

    async def _load(self, base_model: BaseModel, card: Card) -> Classifier:
        folder = await self._artefacts.pack(base_model)
        try:
            found = await asyncio.to_thread(read_classifier, folder / MODEL_FILE, card)
        except VisionError as error:
            raise InternalError(error.reason, f"the base model cannot be explained: {error}") from error
        if found is None or card.logits is None:
            raise PreconditionError(
                "CLASSIFIER_NOT_LINEAR",
                f"the classifier of {base_model.name} is not linear in its last feature map, so it has no heat map; "
                "models trained on it do",
                metadata={"base_model": base_model.name},
            )
        kept = np.setdiff1d(np.arange(card.logits.dim), np.asarray(card.logits.ignored, np.intp))
        return Classifier(found.weights[:, kept], found.bias[kept])
