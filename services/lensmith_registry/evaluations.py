"""What can be asked of the evaluation of a version, and what of a version may change: thresholds and note."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lensmith_api.v1.evaluation_pb2 import ConceptCurve, EvaluatedInput, Evaluation, VersionComparison
from lensmith_api.v1.model_service_pb2 import (
    GetEvaluationCurvesRequest,
    GetEvaluationCurvesResponse,
    GetEvaluationRequest,
    ListChangedInputsRequest,
    ListChangedInputsResponse,
    ListEvaluatedInputsRequest,
    ListEvaluatedInputsResponse,
    UpdateModelVersionRequest,
)
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.training_settings_pb2 import ThresholdAim
from lensmith_platform import etags, update_mask
from lensmith_platform.cancellation import thread_to_its_end
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import InvalidInputError, NotFoundError, PreconditionError
from lensmith_platform.principal import AppRef
from lensmith_registry import changes, evaluated_inputs, store, version_store
from lensmith_registry.converters import json_from_message, version_to_proto
from lensmith_registry.evaluated_lists import EvaluatedLists
from lensmith_registry.evaluation_converters import comparison_to_proto, curve_to_proto, evaluation_to_proto
from lensmith_registry.evaluation_scores import EvaluationScores, require_ready
from lensmith_registry.version_store import Json, VersionRow
from lensmith_vision import evaluation as vision_evaluation
from lensmith_vision import judging
from lensmith_vision.comparison import Comparison, Side, compare
from lensmith_vision.errors import VisionError
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.report import ThresholdAim as VisionAim

__all__ = ["Evaluations"]

_MASK_PATHS = ("note", "threshold_aim", "thresholds")
_MOST_CURVES = 100


class Evaluations:
    """Answers about evaluations; each names the version by model and number.

    Args:
        database: Of the service's role.
        pager: Makes and reads page tokens.
        scores: Where the scores behind evaluations are read.
    """

    def __init__(self, database: Database, pager: Pager, scores: EvaluationScores) -> None:
        self._database = database
        self._pager = pager
        self._scores = scores
        self._lists = EvaluatedLists()

    async def get(self, row: VersionRow, request: GetEvaluationRequest) -> Evaluation:
        """Return the evaluation of a version, also as it would be at other thresholds.

        Raises:
            InvalidInputError: Several aims, or thresholds that do not fit.
            NotFoundError: It came trained and was not evaluated.
            PreconditionError: It is not READY, or has no scores.
        """
        require_ready(row)
        async with self._database.transaction(row.app_id) as connection:
            evaluated = await version_store.evaluation_of(connection, row)
        if evaluated is None:
            raise NotFoundError("EVALUATION_NOT_FOUND", f"{row.name} came trained: it was not evaluated here")
        # Of thousands of concepts, reading it takes a second, and so does showing it.
        figures = await asyncio.to_thread(vision_evaluation.Evaluation.from_json, evaluated)
        moved = await self._moved(row, request, figures)
        return await asyncio.to_thread(
            evaluation_to_proto, f"{row.name}/evaluation", moved or figures, other_thresholds=moved is not None
        )

    async def _moved(
        self, row: VersionRow, request: GetEvaluationRequest, figures: vision_evaluation.Evaluation
    ) -> vision_evaluation.Evaluation | None:
        """Return the figures at the thresholds that are asked for, else at the version's own; None: as trained."""
        aim = _aim(request)
        if request.thresholds or aim is not None:
            asked = _thresholds(request.thresholds, row, "thresholds") if request.thresholds else []
            async with self._scores.of(row) as predictions:
                return await thread_to_its_end(_at, figures, predictions, aim, asked)
        if row.threshold_aim is None or not row.out_of_fold:
            return None
        async with self._scores.of(row) as predictions:
            try:
                return await thread_to_its_end(_at, figures, predictions, None, row.thresholds)
            except InvalidInputError:
                # Set below what is stored of so large a version: the figures of the training are the nearest there are.
                return None

    async def curves(self, row: VersionRow, request: GetEvaluationCurvesRequest) -> GetEvaluationCurvesResponse:
        """Return the curves of some concepts.

        Raises:
            InvalidInputError: A concept that is none of the version's.
            PreconditionError: It is not READY, has no scores, or is a regression.
        """
        wanted = set(request.concepts) or set(row.concepts[:_MOST_CURVES])
        for concept in request.concepts:
            evaluated_inputs.column_of(row, concept, "concepts")
        columns = [column for column, concept in enumerate(row.concepts) if concept in wanted]
        async with self._scores.of(row) as predictions:
            drawn = await thread_to_its_end(_curves, predictions, columns)
        return GetEvaluationCurvesResponse(curves=drawn)

    async def evaluated_inputs(
        self, row: VersionRow, request: ListEvaluatedInputsRequest
    ) -> ListEvaluatedInputsResponse:
        """List what a version answered about each input.

        Raises:
            InvalidInputError: A concept that is none of the version's, or a token of another list.
            PreconditionError: It is not READY, or has no scores.
        """
        size = self._pager.size(request.page_size)
        chosen = evaluated_inputs.Filter.of(row, request)
        fingerprint = f"evaluated/{_answers_of(row)}/{chosen}"
        position = self._pager.decode(request.page_token, fingerprint)
        start = int(str(position[0])) if position else 0
        self._scores.require(row)
        places = self._lists.get(fingerprint)
        if places is None:
            async with self._scores.of(row) as predictions:
                places = await thread_to_its_end(evaluated_inputs.places_of, row, predictions, chosen)
            self._lists.put(fingerprint, places)
        page = places[start : start + size].tolist()
        told = await self._shown(row, page) if page else []
        token = self._pager.encode((start + size,), fingerprint) if start + size < len(places) else ""
        return ListEvaluatedInputsResponse(evaluated_inputs=told, next_page_token=token, total_size=len(places))

    async def _shown(self, row: VersionRow, places: Sequence[int]) -> list[EvaluatedInput]:
        predictions = await self._scores.rows_of(row, places)
        # A thousand pictures of thousands of concepts take half a second.
        return await asyncio.to_thread(evaluated_inputs.shown, row, predictions)

    async def compare(self, first: VersionRow, other: VersionRow) -> VersionComparison:
        """Compare two versions of a model.

        Raises:
            PreconditionError: One is not READY or has no scores, or they have no inputs or concepts in common.
        """
        async with self._scores.of_two(first, other) as (one, two):
            compared = await thread_to_its_end(_compared, first, one, other, two)
            return await thread_to_its_end(comparison_to_proto, first.name, other.name, compared)

    async def changed_inputs(
        self, first: VersionRow, other: VersionRow, request: ListChangedInputsRequest
    ) -> ListChangedInputsResponse:
        """List the inputs that two versions answer differently.

        Raises:
            InvalidInputError: A token of another list.
            PreconditionError: As for `compare`.
        """
        size = self._pager.size(request.page_size)
        fingerprint = f"changed/{_answers_of(first)}/{_answers_of(other)}/{request.change}"
        position = self._pager.decode(request.page_token, fingerprint)
        start = int(str(position[0])) if position else 0
        async with self._scores.of_two(first, other) as (one, two):
            compared = await thread_to_its_end(_compared, first, one, other, two)
            total, page = await thread_to_its_end(
                evaluated_inputs.changed_page_of, first, other, compared, request.change, start, size
            )
        token = self._pager.encode((start + size,), fingerprint) if start + size < total else ""
        return ListChangedInputsResponse(changed_inputs=page, next_page_token=token, total_size=total)

    async def update(
        self, app: AppRef, actor: str, row: VersionRow, request: UpdateModelVersionRequest
    ) -> ModelVersion:
        """Change thresholds or note, and tell serving.

        Raises:
            ConflictError: It was changed since the caller read it.
            InvalidInputError: The mask or the thresholds make no sense.
            PreconditionError: It has no thresholds to change.
        """
        message = request.model_version
        paths = update_mask.apply(request.update_mask, _MASK_PATHS)
        if {"thresholds", "threshold_aim"} <= set(paths):
            why = "cannot name both thresholds and threshold_aim"
            raise InvalidInputError(
                "UPDATE_MASK_INVALID", f"update_mask {why}", field_violations=[("update_mask", why)]
            )
        thresholds, aim = list(row.thresholds), row.threshold_aim
        if "thresholds" in paths:
            _require_thresholds(row)
            thresholds, aim = _thresholds(message.thresholds, row, "model_version.thresholds"), {}
        elif "threshold_aim" in paths:
            _require_thresholds(row)
            thresholds, aim = await self._aimed(row, message.threshold_aim)
        async with self._database.transaction(app.app_id) as connection:
            # The model's row first, as everybody who takes both does.
            model = await store.lock_model(connection, app.app_id, row.model)
            current = await version_store.version_by_uid(connection, app.app_id, row.uid)
            etags.check(message.etag, current.etag)
            if not {"thresholds", "threshold_aim"} & set(paths):
                thresholds, aim = list(current.thresholds), current.threshold_aim
            note = message.note if "note" in paths else current.note
            await version_store.update_version(connection, current, thresholds, aim, note, actor)
            await changes.version_changed(connection, app.app_id, row.uid)
            if thresholds != list(current.thresholds):
                await changes.model_changed(connection, app.app_id, model.model)
            return version_to_proto(await version_store.version_by_uid(connection, app.app_id, row.uid))

    async def _aimed(self, row: VersionRow, aim: ThresholdAim) -> tuple[list[float], Json]:
        """Choose thresholds from the scores of the evaluation."""
        field = "model_version.threshold_aim"
        named = aim.WhichOneof("aim")
        if named is None or (named == "best_f1" and not aim.best_f1):
            why = "must name an aim: best_f1, min_precision or min_recall"
            raise InvalidInputError("THRESHOLD_AIM_INVALID", f"{field} {why}", field_violations=[(field, why)])
        wanted = _vision_aim(
            aim.min_precision if named == "min_precision" else None, aim.min_recall if named == "min_recall" else None
        )
        async with self._scores.of(row) as predictions:
            chosen = await thread_to_its_end(_chosen, predictions, wanted)
        return chosen.astype(np.float64).tolist(), json_from_message(aim)


def _answers_of(row: VersionRow) -> str:
    """Name what a version answers: thresholds decide what is wrong, and a list goes on only while they stay."""
    return f"{row.uid}/{hashlib.sha256(np.asarray(row.thresholds, dtype=np.float64).tobytes()).hexdigest()}"


def _aim(request: GetEvaluationRequest) -> VisionAim | None:
    precision = request.min_precision if request.HasField("min_precision") else None
    recall = request.min_recall if request.HasField("min_recall") else None
    given = [bool(request.thresholds), precision is not None, recall is not None, request.best_f1]
    if sum(given) > 1:
        raise InvalidInputError(
            "THRESHOLD_AIM_INVALID", "give one of thresholds, min_precision, min_recall and best_f1, not several"
        )
    return _vision_aim(precision, recall) if any(given[1:]) else None


def _vision_aim(precision: float | None, recall: float | None) -> VisionAim:
    try:
        return VisionAim(precision, recall)
    except VisionError as error:
        raise InvalidInputError(error.reason, str(error)) from error


def _thresholds(given: Sequence[float], row: VersionRow, field: str) -> list[float]:
    """Read one threshold for each concept, or one for all."""
    thresholds = list(given) if len(given) != 1 else list(given) * len(row.concepts)
    why = ""
    if len(thresholds) != len(row.concepts):
        why = f"must be one threshold, or one for each of the version's {len(row.concepts)} concepts"
    # Not a number fails every comparison.
    elif not all(0 <= threshold <= 1 for threshold in thresholds):
        why = "must be numbers from 0 to 1"
    if why:
        raise InvalidInputError("THRESHOLDS_INVALID", f"{field} {why}", field_violations=[(field, why)])
    return thresholds


def _require_thresholds(row: VersionRow) -> None:
    require_ready(row)
    kind = row.model_snapshot.get("type") if isinstance(row.model_snapshot, dict) else None
    if not row.head or kind == "MODEL_TYPE_REGRESSION":
        why = "it predicts a number" if row.head else "it came with a base model"
        raise PreconditionError("NO_THRESHOLDS", f"{row.name} has no thresholds to change: {why}")


def _refused(error: VisionError) -> InvalidInputError | PreconditionError:
    kind = InvalidInputError if error.reason == "THRESHOLD_TOO_LOW" else PreconditionError
    return kind(error.reason, str(error), metadata=error.metadata)


def _chosen(predictions: OutOfFoldPredictions, aim: VisionAim) -> npt.NDArray[np.float32]:
    try:
        return judging.choose_thresholds(predictions, aim)
    except VisionError as error:
        raise _refused(error) from error


def _at(
    figures: vision_evaluation.Evaluation,
    predictions: OutOfFoldPredictions,
    aim: VisionAim | None,
    thresholds: Sequence[float],
) -> vision_evaluation.Evaluation:
    try:
        wanted = (
            np.asarray(thresholds, dtype=np.float32) if aim is None else judging.choose_thresholds(predictions, aim)
        )
        return judging.at_thresholds(figures, predictions, wanted)
    except VisionError as error:
        raise _refused(error) from error


def _curves(predictions: OutOfFoldPredictions, columns: Sequence[int]) -> list[ConceptCurve]:
    try:
        drawn = [(predictions.concepts[column], judging.curve(predictions, column)) for column in columns]
    except VisionError as error:
        raise _refused(error) from error
    return [curve_to_proto(concept, curve) for concept, curve in drawn if curve is not None]


def _compared(first: VersionRow, one: OutOfFoldPredictions, other: VersionRow, two: OutOfFoldPredictions) -> Comparison:
    try:
        return compare(
            Side(one, np.asarray(first.thresholds, dtype=np.float32)),
            Side(two, np.asarray(other.thresholds, dtype=np.float32)),
        )
    except VisionError as error:
        raise _refused(error) from error
