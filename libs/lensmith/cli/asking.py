"""Asking a model from the command line: any number of pictures, and General so that its answers say something."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lensmith import Client
from lensmith.errors import NotFoundError
from lensmith.types import ConceptScore, Prediction, Predictions

__all__ = ["Question", "ask", "most_special"]

BATCH = 32
"""Pictures a call: enough to be fast, few enough for any size of picture."""

_GENERAL = "general"
_VERSIONS_OF_GENERAL = f"apps/main/models/{_GENERAL}/versions/"


@dataclass(frozen=True)
class Question:
    """What is asked about each picture; see `Client.predict`."""

    model: str
    version: int
    concepts: Sequence[str]
    min_value: float
    max_concepts: int

    @property
    def most(self) -> int:
        """Most concepts to ask for: of General all, because what is certain of everything would come first."""
        general = self.model in (_GENERAL, f"main/{_GENERAL}") and not self.concepts
        return 0 if general else self.max_concepts


def ask(client: Client, question: Question, images: Sequence[str]) -> tuple[str, list[Prediction]]:
    """Return the version that answered, and an answer for each picture.

    Where the app has no model of that name, a public one of that name is asked.

    Raises:
        LensmithError: The model cannot be asked.
    """
    try:
        return _ask(client, question, images)
    except NotFoundError as error:
        if error.reason != "MODEL_NOT_FOUND" or "/" in question.model:
            raise
        try:
            return _ask(client, replace(question, model=f"main/{question.model}"), images)
        except NotFoundError:
            raise error from None


def _ask(client: Client, question: Question, images: Sequence[str]) -> tuple[str, list[Prediction]]:
    asked = ""
    answers: list[Prediction] = []
    for start in range(0, len(images), BATCH):
        part: Predictions = client.predict(
            question.model,
            images[start : start + BATCH],
            version=question.version,
            select_concepts=question.concepts,
            min_value=question.min_value,
            max_concepts=question.most,
        )
        asked, answers = part.model_version, [*answers, *part.items]
    if not question.most:
        special = asked.startswith(_VERSIONS_OF_GENERAL) and not question.concepts
        choose = most_special if special else _first
        answers = [replace(one, concepts=choose(one.concepts, question.max_concepts)) for one in answers]
    return asked, answers


def most_special(scores: Sequence[ConceptScore], most: int) -> tuple[ConceptScore, ...]:
    """Of what General predicts, return what says most: nothing is as certain as `entity`, and nothing as idle.

    A concept is never more probable than what it is a kind of, so the least probable is the most special.

    Args:
        scores: By falling score.
        most: How many to return; 0: all that are predicted.
    """
    predicted = [score for score in reversed(scores) if score.predicted]
    return tuple(predicted[: most or None])


def _first(scores: Sequence[ConceptScore], most: int) -> tuple[ConceptScore, ...]:
    return tuple(scores[: most or None])
