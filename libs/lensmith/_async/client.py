"""The client: where everything begins."""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from lensmith import _convert, _convert_explanation, types
from lensmith._async.apps import AsyncApps, AsyncKeys, AsyncUsage
from lensmith._async.dataset import AsyncAnnotations, AsyncConcepts, AsyncInputs
from lensmith._async.evaluations import AsyncEvaluations
from lensmith._async.models import AsyncBaseModels, AsyncModels, model_name
from lensmith._async.suggestions import AsyncSuggestions
from lensmith._async.transport import AsyncTransport
from lensmith._async.upgrades import AsyncUpgrades
from lensmith.config import Config
from lensmith.errors import PreconditionError
from lensmith.explanation_types import Explanations
from lensmith_api.v1 import inference_service_pb2, key_service_pb2
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceStub
from lensmith_api.v1.key_service_pb2_grpc import KeyServiceStub

DEFAULT_TIMEOUT: Final = 60.0
DEFAULT_RETRIES: Final = 8


class AsyncClient:
    """A connection to a Lensmith platform.

    What is not given comes from the environment (`LENSMITH_URL`, `LENSMITH_KEY`, `LENSMITH_APP`) and then from the file
    that `lensmith configure` writes.

    Args:
        url: Address of the platform, `http://127.0.0.1:8080` by default.
        key: Secret of a key.
        app: Own id of the app to work in; the key's own when not given.
        timeout: Seconds that one call may take, its retries included.
        retries: Most repetitions of a call while the platform cannot be reached.

    Example:
        >>> async with lensmith.AsyncClient(key="lsk_…") as client:
        ...     answer = await client.predict("trash-sorter", ["bottle.jpg"])
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        app: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = DEFAULT_RETRIES,
    ) -> None:
        config = Config.load().replace(url=url, key=key, app=app)
        self.url = config.url
        self._app = config.app
        self._transport = AsyncTransport(config.url, config.key, timeout, retries)
        self._inference = InferenceServiceStub(self._transport.channel)
        self._keys = KeyServiceStub(self._transport.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection."""
        await self._transport.close()

    @property
    def app(self) -> str:
        """Own id of the app to work in.

        Raises:
            PreconditionError: `APP_NOT_CHOSEN`.
        """
        if not self._app:
            raise PreconditionError(
                "APP_NOT_CHOSEN", "say which app to work in: app=…, LENSMITH_APP, or `lensmith apps use`"
            )
        return self._app

    async def whoami(self) -> types.Identity:
        """Tells whose key this is and what it may do."""
        return _convert.identity(await self._transport.call(self._keys.WhoAmI, key_service_pb2.WhoAmIRequest()))

    async def scopes(self) -> dict[str, list[str]]:
        """All scopes, each with the methods that it allows."""
        response = await self._transport.call(self._keys.ListScopes, key_service_pb2.ListScopesRequest())
        return {scope.scope: list(scope.methods) for scope in response.scopes}

    @property
    def apps(self) -> AsyncApps:
        """Apps, the tenants."""
        return AsyncApps(self._transport)

    @property
    def keys(self) -> AsyncKeys:
        """Keys of the app."""
        return AsyncKeys(self._transport, self.app)

    @property
    def usage(self) -> AsyncUsage:
        """What the app has used."""
        return AsyncUsage(self._transport, self.app)

    @property
    def inputs(self) -> AsyncInputs:
        """Pictures of the app."""
        return AsyncInputs(self._transport, self.app)

    @property
    def concepts(self) -> AsyncConcepts:
        """Concepts of the app."""
        return AsyncConcepts(self._transport, self.app)

    @property
    def annotations(self) -> AsyncAnnotations:
        """Annotations of the app."""
        return AsyncAnnotations(self._transport, self.app)

    @property
    def models(self) -> AsyncModels:
        """Models of the app."""
        return AsyncModels(self._transport, self.app)

    @property
    def evaluations(self) -> AsyncEvaluations:
        """How good versions are: at other thresholds, input by input, side by side, and with more images."""
        return AsyncEvaluations(self._transport, self.app)

    @property
    def suggestions(self) -> AsyncSuggestions:
        """What to fix in the data of models."""
        return AsyncSuggestions(self._transport, self.app)

    @property
    def upgrades(self) -> AsyncUpgrades:
        """Moving the app to a better base model."""
        return AsyncUpgrades(self._transport, self.app)

    @property
    def base_models(self) -> AsyncBaseModels:
        """Base models of the platform."""
        return AsyncBaseModels(self._transport)

    async def predict(
        self,
        model: str,
        images: Iterable[types.ImageSource],
        *,
        version: int = 0,
        select_concepts: Sequence[str] = (),
        min_value: float = 0.0,
        max_concepts: int = 0,
        timeout: float | None = None,
    ) -> types.Predictions:
        """Asks a model about at most 128 pictures: URLs, paths or bytes.

        Args:
            model: Own id of a model of the app; `main/{model}` for a public one.
            images: The pictures.
            version: Version to ask; 0 for the one in production.
            select_concepts: The only concepts to answer; empty for all.
            min_value: Leave out scores below this.
            max_concepts: Most concepts for a picture; 0 for all.
            timeout: Seconds for this call.

        Raises:
            LensmithError: The call failed. A picture that failed has its error in its own answer.
        """
        response = await self._transport.call(
            self._inference.Predict,
            inference_service_pb2.PredictRequest(
                model=model_name(self.app, model),
                version=version,
                inputs=[inference_service_pb2.ImageQuery(image=_convert.image(item)) for item in images],
                select_concepts=select_concepts,
                min_value=min_value,
                max_concepts=max_concepts,
            ),
            timeout=timeout,
        )
        return types.Predictions(
            model_version=response.model_version,
            items=tuple(_convert.prediction(item) for item in response.predictions),
        )

    async def explain(
        self,
        model: str,
        images: Iterable[types.ImageSource],
        *,
        version: int = 0,
        select_concepts: Sequence[str] = (),
        max_concepts: int = 0,
        overlay: bool = False,
        nearest: int = 0,
        timeout: float | None = None,
    ) -> Explanations:
        """Asks a model why it answers as it does about at most 8 pictures: URLs, paths or bytes.

        Args:
            model: Own id of a model of the app; `main/{model}` for a public one.
            images: The pictures.
            version: Version to ask; 0 for the one in production.
            select_concepts: The concepts to explain; empty for those of highest score.
            max_concepts: Most concepts for a picture; 0 for one, or all that were selected.
            overlay: Also draw each heat map over its picture, as a PNG.
            nearest: How many training pictures like each to name. The key needs the scope `Inputs:Get`.
            timeout: Seconds for this call.

        Raises:
            LensmithError: The call failed. A picture that failed has its error in its own explanation.
        """
        response = await self._transport.call(
            self._inference.Explain,
            inference_service_pb2.ExplainRequest(
                model=model_name(self.app, model),
                version=version,
                inputs=[inference_service_pb2.ImageQuery(image=_convert.image(item)) for item in images],
                select_concepts=select_concepts,
                max_concepts=max_concepts,
                overlay=overlay,
                nearest=nearest,
            ),
            timeout=timeout,
        )
        return _convert_explanation.explanations(response)

    async def embed(
        self, images: Iterable[types.ImageSource], *, base_model: str = "", timeout: float | None = None
    ) -> types.Embeddings:
        """Turns at most 128 pictures into vectors, of the app's own base model or of a given one.

        Raises:
            LensmithError: The call failed. A picture that failed has its error in its own answer.
        """
        response = await self._transport.call(
            self._inference.Embed,
            inference_service_pb2.EmbedRequest(
                parent=f"apps/{self.app}",
                base_model=f"baseModels/{base_model}" if base_model else "",
                inputs=[inference_service_pb2.ImageQuery(image=_convert.image(item)) for item in images],
            ),
            timeout=timeout,
        )
        return types.Embeddings(
            space=response.space, items=tuple(_convert.embedding(item) for item in response.embeddings)
        )
