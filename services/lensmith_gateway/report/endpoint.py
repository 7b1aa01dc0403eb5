"""`GET /v1/apps/{app}/models/{model}/versions/{version}/report`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from lensmith_api.v1.access_pb2 import Access
from lensmith_gateway.images import ImageLinkReader
from lensmith_gateway.report.composition import compose
from lensmith_gateway.report.page import POLICY, as_html, as_json
from lensmith_gateway.report.sources import Blobs, Sources, Stubs
from lensmith_platform.errors import InvalidInputError

__all__ = ["ACCESS", "ROUTE", "ReportEndpoint"]

ROUTE = "/v1/apps/{app}/models/{model}/versions/{version}/report"
ACCESS = Access(scope="Models:Get", also_scopes=["Inputs:Get"], public_app=True)
_AT_ONCE = 2
"""Reports made at the same time: each holds some pictures in memory."""
_OPTIONS = frozenset({"format", "pictures"})


class ReportEndpoint:
    """Makes reports.

    Args:
        stubs: the services; the caller's own credentials are passed on to them.
        links: reads what dataset signs.
        blobs: where pictures lie.
        passed_on: metadata of a request for the services.
    """

    def __init__(
        self,
        stubs: Stubs,
        links: ImageLinkReader,
        blobs: Blobs,
        passed_on: Callable[[Request], Sequence[tuple[str, str]]],
    ) -> None:
        self._stubs = stubs
        self._links = links
        self._blobs = blobs
        self._passed_on = passed_on
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def get(self, request: Request) -> Response:
        """Answer with the report as a page, or as JSON.

        Raises:
            InvalidInputError: REPORT_OPTIONS_INVALID.
            LensmithError: the version is not there, not READY, or not for this caller.
        """
        kind, pictures = _options(request)
        version = "apps/{app}/models/{model}/versions/{version}".format(**request.path_params)
        async with self._places:
            sources = Sources(self._stubs, self._links, self._blobs, self._passed_on(request))
            material = await sources.gather(version, pictures=pictures)
            render = as_json if kind == "json" else as_html
            # Of thousands of concepts both take a second.
            text = await asyncio.to_thread(lambda: render(compose(material)))
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'; sandbox",
            "Referrer-Policy": "no-referrer",
            # It shows training pictures: no cache may keep it.
            "Cache-Control": "no-store",
        }
        media = "application/json" if kind == "json" else "text/html; charset=utf-8"
        return Response(text, media_type=media, headers=headers)


def _options(request: Request) -> tuple[str, bool]:
    """Read the query: the format, and whether to show pictures."""
    given = request.query_params
    kind, pictures = given.get("format", "html"), given.get("pictures", "true")
    strangers = sorted(given.keys() - _OPTIONS)
    if strangers or kind not in ("html", "json") or pictures not in ("true", "false"):
        field = strangers[0] if strangers else "format" if kind not in ("html", "json") else "pictures"
        why = "the query takes `format` (`html` or `json`) and `pictures` (`true` or `false`)"
        raise InvalidInputError("REPORT_OPTIONS_INVALID", f"{field}: {why}", field_violations=[(field, why)])
    return kind, pictures == "true"
