"""Who calls, on which app: what every handler knows of the call that it answers."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

MAIN_APP_ID = 1
"""Number of the public app, which every app may read and only the operator may change."""

MAIN_APP = "main"
"""Own id of the public app."""


@dataclass(frozen=True, slots=True)
class AppRef:
    """An app as the services know it.

    Attributes:
        app_id: number inside the platform; leads every primary key.
        uid: stable unique id.
        name: the app's own id (`trash` of `apps/trash`).
        base_model: base model the app asked for; empty: none.
    """

    app_id: int
    uid: str
    name: str
    base_model: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    Attributes:
        kind: an app's key, the operator's key, a service of the platform, or nobody.
        app: the key's app; None for every other kind.
        key_uid: uid of the key; None for services and nobody.
        scopes: what an app's key grants, implied scopes included.
        service: name of the calling service.
        actor: who stands in audit rows: `keys/{uid}`, `services/{name}`, `operator`, `anonymous`.
        service_app_id: number of the app that a service's token is bound to; 0: none.
    """

    kind: Literal["key", "operator", "service", "anonymous"]
    app: AppRef | None = None
    key_uid: str | None = None
    scopes: frozenset[str] = frozenset()
    service: str | None = None
    actor: str = "anonymous"
    service_app_id: int = 0

    def has(self, scope: str) -> bool:
        """Tell whether the caller may do what the scope allows; the operator may do everything."""
        return self.kind == "operator" or scope in self.scopes


ANONYMOUS = Principal("anonymous")
"""Nobody: the caller of a public RPC."""


@dataclass(frozen=True, slots=True)
class Call:
    """The call that the current task answers.

    Attributes:
        request_id: id that finds this request in every log.
        principal: who calls.
        app: the app that the request's resource name addresses (`main` for any key on `apps/main`); None where the
            request names none. Usage is charged to `principal.app`.
        deadline: `loop.time()` at which nobody waits for the answer any more; None: whenever.
    """

    request_id: str
    principal: Principal
    app: AppRef | None = None
    deadline: float | None = None


_call: ContextVar[Call] = ContextVar("lensmith_call")


def current_call() -> Call:
    """Return the call that this task answers.

    Raises:
        LookupError: this task answers no call; background work has no caller.
    """
    return _call.get()


def current_call_or_none() -> Call | None:
    """Return the call that this task answers; None in background work."""
    return _call.get(None)


def set_current_call(call: Call) -> None:
    """Say which call this task answers; the interceptors do."""
    _call.set(call)


def addressed_app() -> AppRef:
    """Return the app that the current call addresses.

    Raises:
        LookupError: this task answers no call, or one whose request names no app.
    """
    app = current_call().app
    if app is None:
        raise LookupError("this call addresses no app: its RPC has no resource name that begins with apps/*")
    return app
