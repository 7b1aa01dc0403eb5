# Generated from lensmith._async by scripts/generate_sync_client.py; do not edit.
"""What to fix in the data of models, and what to label next."""

import time
from collections.abc import Iterable, Iterator
from typing import Final

from lensmith import _suggestions
from lensmith import suggestion_types as types
from lensmith._sync.models import PAGE, Models, model_name
from lensmith._sync.transport import Transport
from lensmith.errors import PreconditionError
from lensmith.types import VersionState
from lensmith_api.v1 import suggestion_service_pb2 as pb
from lensmith_api.v1.suggestion_pb2 import SUGGESTION_KIND_UNSPECIFIED, SUGGESTION_STATE_UNSPECIFIED
from lensmith_api.v1.suggestion_service_pb2_grpc import SuggestionServiceStub

POLL_SECONDS: Final = 0.5


class Suggestions:
    """Suggestions about the data of the models of one app. Without a version, the newest one that is ready is meant."""

    def __init__(self, transport: Transport, app: str) -> None:
        self._transport = transport
        self._app = app
        self._stub = SuggestionServiceStub(transport.channel)

    def overview(self, model: str, version: int = 0) -> types.SuggestionOverview:
        """Tells how many suggestions of each kind there are, and whether they are still being looked for."""
        request = pb.ListSuggestionsRequest(parent=self._parent(model, version), page_size=1)
        return _suggestions.overview(self._transport.call(self._stub.ListSuggestions, request))

    def wait(self, model: str, version: int = 0, *, timeout: float = 60.0) -> types.SuggestionOverview:
        """Waits until the data has been looked through, which begins when a version is ready.

        Returns:
            As `overview`; still `pending` where it takes longer than `timeout` seconds.
        """
        until = time.monotonic() + timeout
        while True:
            found = self.overview(model, version)
            if not found.pending or time.monotonic() >= until:
                return found
            time.sleep(POLL_SECONDS)

    def list(
        self,
        model: str,
        version: int = 0,
        *,
        kind: types.SuggestionKind | None = None,
        concept: str = "",
        state: types.SuggestionState | None = None,
    ) -> Iterator[types.Suggestion]:
        """Yields suggestions, the most useful of each kind first."""
        parent, token = self._parent(model, version), ""
        while True:
            page = self._transport.call(
                self._stub.ListSuggestions,
                pb.ListSuggestionsRequest(
                    parent=parent,
                    page_size=PAGE,
                    page_token=token,
                    kind=_suggestions.KIND_TO_PROTO[kind] if kind else SUGGESTION_KIND_UNSPECIFIED,
                    concept=concept,
                    state=_suggestions.STATE_TO_PROTO[state] if state else SUGGESTION_STATE_UNSPECIFIED,
                ),
            )
            for message in page.suggestions:
                found = _suggestions.from_proto(message)
                if found is not None:
                    yield found
            if not (token := page.next_page_token):
                return

    def accept(
        self,
        model: str,
        suggestions: Iterable[types.Suggestion | int],
        version: int = 0,
        *,
        action: types.SuggestionAction = types.SuggestionAction.APPLY,
    ) -> tuple[types.DecidedSuggestion, ...]:
        """Decides on suggestions, given as such or by their numbers. Repeating it changes nothing.

        One whose picture or labels changed meanwhile is left alone; its `error` says so.
        """
        parent = self._parent(model, version)
        names = [str(one if isinstance(one, int) else one.number) for one in suggestions]
        decided: tuple[types.DecidedSuggestion, ...] = ()
        for some in [names[start : start + PAGE] for start in range(0, len(names), PAGE)]:
            request = pb.AcceptSuggestionsRequest(
                parent=parent, suggestions=some, action=_suggestions.ACTION_TO_PROTO[action]
            )
            answer = self._transport.call(self._stub.AcceptSuggestions, request)
            decided += tuple(_suggestions.decided(result) for result in answer.results)
        return decided

    def accept_all(
        self,
        model: str,
        kind: types.SuggestionKind,
        version: int = 0,
        *,
        concept: str = "",
        min_score: float | None = None,
        action: types.SuggestionAction = types.SuggestionAction.APPLY,
    ) -> tuple[types.DecidedSuggestion, ...]:
        """Decides on all open suggestions of a kind in one call.

        Without `min_score`, wrong labels are put right from a score of 0.9 on; where concepts exclude each other, those
        from 0.5 on are taken away. What is less sure deserves a look.
        """
        request = pb.AcceptSuggestionsRequest(
            parent=self._parent(model, version),
            all=pb.AllSuggestions(kind=_suggestions.KIND_TO_PROTO[kind], concept=concept, min_score=min_score),
            action=_suggestions.ACTION_TO_PROTO[action],
        )
        answer = self._transport.call(self._stub.AcceptSuggestions, request)
        return tuple(_suggestions.decided(result) for result in answer.results)

    def merge(
        self, model: str, suggestion: types.Suggestion | int, into: str, version: int = 0
    ) -> types.DecidedSuggestion:
        """Makes the two concepts of a suggestion about confused concepts one.

        Every picture that shows the other one is labelled with `into` too, and the model forgets the other one. The app
        keeps it with its labels, so that it can be undone. Repeating it changes nothing.

        Args:
            model: Own id of the model.
            suggestion: The suggestion, or its number.
            into: Own id of the concept that stays.
            version: Whose suggestion it is.

        Raises:
            ForbiddenError: The key lacks the scope `Models:Add`.
            PreconditionError: Another model learns `into` too, or nothing would be left to tell it from.
        """
        request = pb.AcceptSuggestionsRequest(
            parent=self._parent(model, version),
            suggestions=[str(suggestion if isinstance(suggestion, int) else suggestion.number)],
            action=_suggestions.ACTION_TO_PROTO[types.SuggestionAction.MERGE_CONCEPTS],
            merge_into=into,
        )
        answer = self._transport.call(self._stub.AcceptSuggestions, request)
        return _suggestions.decided(answer.results[0])

    def _parent(self, model: str, version: int) -> str:
        if not version:
            for found in Models(self._transport, self._app).list_versions(model):
                if found.state is VersionState.READY:
                    version = found.number
                    break
            else:
                raise PreconditionError("MODEL_HAS_NO_TRAINED_VERSION", f"{model} has no trained version yet")
        return f"{model_name(self._app, model)}/versions/{version}"
