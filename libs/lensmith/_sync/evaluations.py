# Generated from lensmith._async by scripts/generate_sync_client.py; do not edit.
"""How good versions are: at other thresholds, input by input, side by side, and with more images."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask

from lensmith import _convert, _evaluations, evaluation_types, types
from lensmith._sync.models import PAGE, model_name
from lensmith._sync.transport import Transport
from lensmith.errors import InvalidInputError, NotFoundError
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.evaluation_pb2 import INPUT_CHANGE_UNSPECIFIED
from lensmith_api.v1.model_service_pb2_grpc import ModelServiceStub
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.training_settings_pb2 import ThresholdAim

POLL_SECONDS: Final = 0.5

Thresholds = float | Sequence[float] | Mapping[str, float]
"""One threshold for all concepts, one for each in the order of the version's, or by concept (the others stay)."""


class Evaluations:
    """Evaluations of the versions of one app."""

    def __init__(self, transport: Transport, app: str) -> None:
        self._transport = transport
        self._app = app
        self._stub = ModelServiceStub(transport.channel)

    def get(
        self,
        model: str,
        version: int,
        *,
        thresholds: Thresholds | None = None,
        min_precision: float | None = None,
        min_recall: float | None = None,
        best_f1: bool = False,
    ) -> types.Evaluation:
        """Returns the evaluation of a ready version; with thresholds or an aim, as it would be with those.

        Nothing is trained for that. At most one of the four may be given.

        Raises:
            PreconditionError: `VERSION_NOT_READY`, or `EVALUATION_SCORES_NOT_STORED` where thresholds are given.
        """
        chosen = [] if thresholds is None else self._thresholds(model, version, thresholds)
        request = pb.GetEvaluationRequest(
            name=f"{self._version(model, version)}/evaluation",
            thresholds=chosen,
            min_precision=min_precision,
            min_recall=min_recall,
            best_f1=best_f1,
        )
        return _evaluations.evaluation(self._transport.call(self._stub.GetEvaluation, request))

    def curves(
        self, model: str, version: int, concepts: Iterable[str] = ()
    ) -> tuple[evaluation_types.ConceptCurve, ...]:
        """Returns precision-recall and ROC curves of some concepts; of the first hundred where none is named."""
        request = pb.GetEvaluationCurvesRequest(
            name=f"{self._version(model, version)}/evaluation", concepts=list(concepts)
        )
        response = self._transport.call(self._stub.GetEvaluationCurves, request)
        return tuple(_evaluations.curve(item) for item in response.curves)

    def inputs(
        self,
        model: str,
        version: int,
        *,
        wrong_only: bool = False,
        actual_concept: str = "",
        predicted_concept: str = "",
        least_confident_first: bool = False,
    ) -> Iterator[evaluation_types.EvaluatedInput]:
        """Yields what a version answered about each input that it was evaluated on, the surest answers first."""
        token = ""
        while True:
            request = pb.ListEvaluatedInputsRequest(
                parent=self._version(model, version),
                page_size=PAGE,
                page_token=token,
                wrong_only=wrong_only,
                actual_concept=actual_concept,
                predicted_concept=predicted_concept,
                order=pb.EVALUATED_INPUT_ORDER_LEAST_CONFIDENT
                if least_confident_first
                else pb.EVALUATED_INPUT_ORDER_UNSPECIFIED,
            )
            page = self._transport.call(self._stub.ListEvaluatedInputs, request)
            for message in page.evaluated_inputs:
                yield _evaluations.evaluated_input(message)
            if not (token := page.next_page_token):
                return

    def compare(self, model: str, version: int, other: int) -> evaluation_types.VersionComparison:
        """Compares two versions of a model on the inputs that both were evaluated on.

        Raises:
            PreconditionError: `EVALUATION_SCORES_NOT_STORED`, `NO_COMMON_INPUTS` or `NO_COMMON_CONCEPTS`.
        """
        request = pb.CompareModelVersionsRequest(name=self._version(model, version), other_version=other)
        return _evaluations.comparison(self._transport.call(self._stub.CompareModelVersions, request))

    def changed_inputs(
        self, model: str, version: int, other: int, *, change: evaluation_types.InputChange | None = None
    ) -> Iterator[evaluation_types.ChangedInput]:
        """Yields the inputs that one version answers rightly and the other wrongly, broken ones first."""
        token = ""
        while True:
            request = pb.ListChangedInputsRequest(
                parent=self._version(model, version),
                other_version=other,
                change=_evaluations.CHANGE_TO_PROTO[change] if change else INPUT_CHANGE_UNSPECIFIED,
                page_size=PAGE,
                page_token=token,
            )
            page = self._transport.call(self._stub.ListChangedInputs, request)
            for message in page.changed_inputs:
                yield _evaluations.changed_input(message)
            if not (token := page.next_page_token):
                return

    def set_thresholds(
        self,
        model: str,
        version: int,
        thresholds: Thresholds | None = None,
        *,
        min_precision: float | None = None,
        min_recall: float | None = None,
        best_f1: bool = False,
    ) -> types.ModelVersion:
        """Changes from which score on a version's concepts count as predicted; exactly one of the four is given.

        Nothing is trained for that, and predictions obey it at once.
        """
        given = [thresholds is not None, min_precision is not None, min_recall is not None, best_f1]
        if sum(given) != 1:
            raise InvalidInputError(
                "THRESHOLD_AIM_INVALID", "give exactly one of thresholds, min_precision, min_recall and best_f1"
            )
        if thresholds is not None:
            chosen = self._thresholds(model, version, thresholds)
            return self._update(ModelVersion(name=self._version(model, version), thresholds=chosen), "thresholds")
        aim = ThresholdAim()
        if min_precision is not None:
            aim.min_precision = min_precision
        elif min_recall is not None:
            aim.min_recall = min_recall
        else:
            aim.best_f1 = True
        message = ModelVersion(name=self._version(model, version), threshold_aim=aim)
        return self._update(message, "threshold_aim")

    def set_note(self, model: str, version: int, note: str) -> types.ModelVersion:
        """Changes the note of a version."""
        return self._update(ModelVersion(name=self._version(model, version), note=note), "note")

    def compute_learning_curve(self, model: str, version: int) -> evaluation_types.LearningCurve:
        """Has the platform find out what more images would bring; `learning_curve` tells when it is done."""
        request = pb.ComputeLearningCurveRequest(name=self._version(model, version))
        return _evaluations.learning_curve(self._transport.call(self._stub.ComputeLearningCurve, request))

    def learning_curve(self, model: str, version: int) -> evaluation_types.LearningCurve:
        """Returns what more images would bring, or how far finding that out is.

        Raises:
            NotFoundError: `LEARNING_CURVE_NOT_FOUND`: nobody asked for it yet.
        """
        request = pb.GetLearningCurveRequest(name=f"{self._version(model, version)}/learningCurve")
        return _evaluations.learning_curve(self._transport.call(self._stub.GetLearningCurve, request))

    def wait_learning_curve(
        self, model: str, version: int, *, timeout: float = 600.0
    ) -> evaluation_types.LearningCurve:
        """Asks for a learning curve where there is none, and waits for it.

        Returns:
            The curve; still queued where it takes longer than `timeout` seconds.
        """
        until = time.monotonic() + timeout
        try:
            found = self.learning_curve(model, version)
        except NotFoundError as error:
            if error.reason != "LEARNING_CURVE_NOT_FOUND":
                raise
            found = self.compute_learning_curve(model, version)
        while not found.state.final and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
            found = self.learning_curve(model, version)
        return found

    def _update(self, message: ModelVersion, path: str) -> types.ModelVersion:
        request = pb.UpdateModelVersionRequest(model_version=message, update_mask=FieldMask(paths=[path]))
        return _convert.model_version(self._transport.call(self._stub.UpdateModelVersion, request))

    def _thresholds(self, model: str, version: int, given: Thresholds) -> list[float]:
        if isinstance(given, Mapping):
            request = pb.GetModelVersionRequest(name=self._version(model, version))
            current = self._transport.call(self._stub.GetModelVersion, request)
            if unknown := sorted(set(given) - set(current.concepts)):
                raise InvalidInputError(
                    "CONCEPT_NOT_IN_VERSION", f"version {version} has no concept {', '.join(unknown)}"
                )
            known = dict(zip(current.concepts, current.thresholds, strict=True))
            return [{**known, **given}[concept] for concept in current.concepts]
        return list(given) if isinstance(given, Sequence) else [given]

    def _version(self, model: str, version: int) -> str:
        return f"{model_name(self._app, model)}/versions/{version}"
