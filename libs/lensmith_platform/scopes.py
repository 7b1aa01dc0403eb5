"""Scopes: what a key may be allowed to do, and what each implies."""

from collections.abc import Iterable, Mapping

from lensmith_platform.errors import InvalidInputError

ALL = "All"
"""The scope that implies every other."""

SCOPES: tuple[str, ...] = (
    ALL,
    "Predict",
    "Search",
    "Inputs:Get",
    "Inputs:Add",
    "Inputs:Delete",
    "Concepts:Get",
    "Concepts:Add",
    "Concepts:Delete",
    "Annotations:Get",
    "Annotations:Add",
    "Annotations:Delete",
    "Models:Get",
    "Models:Add",
    "Models:Delete",
    "Models:Train",
    "Workflows:Get",
    "Workflows:Add",
    "Workflows:Delete",
    "Keys:Get",
    "Keys:Add",
    "Keys:Delete",
    "Apps:Get",
    "Apps:Add",
    "Apps:Delete",
    "Usage:Get",
    "Audit:Get",
)
"""Every scope, in the order to show them."""


def _implications() -> dict[str, frozenset[str]]:
    implied: dict[str, frozenset[str]] = {}
    for scope in SCOPES:
        resource, _, verb = scope.partition(":")
        verbs = {"Add": ("Get",), "Delete": ("Get", "Add")}.get(verb, ())
        implied[scope] = frozenset(f"{resource}:{other}" for other in verbs)
    implied[ALL] = frozenset(SCOPES) - {ALL}
    return implied


IMPLIED: Mapping[str, frozenset[str]] = _implications()
"""What each scope implies, itself left out."""


def canonical(scope: str) -> str:
    """Name a scope the way the platform stores it: `*:Patch` is an alias of `*:Add`."""
    resource, colon, verb = scope.partition(":")
    return f"{resource}:Add" if colon and verb == "Patch" else scope


def expand(scopes: Iterable[str]) -> frozenset[str]:
    """Return the given scopes with everything that they imply; unknown ones grant nothing."""
    granted: set[str] = set()
    for scope in map(canonical, scopes):
        if scope in IMPLIED:
            granted.add(scope)
            granted |= IMPLIED[scope]
    return frozenset(granted)


def validate(scopes: Iterable[str], *, field: str = "scopes") -> tuple[str, ...]:
    """Check the scopes of a request.

    Returns:
        The scopes in canonical form, each once, in the order of `SCOPES`.

    Raises:
        InvalidInputError: SCOPES_EMPTY, or SCOPE_UNKNOWN that names the unknown scope and all known ones.
    """
    wanted = [canonical(scope) for scope in scopes]
    if not wanted:
        raise InvalidInputError(
            "SCOPES_EMPTY",
            f"a key needs at least one scope, of {', '.join(SCOPES)}",
            field_violations=[(field, "must not be empty")],
        )
    for scope in wanted:
        if scope not in IMPLIED:
            raise InvalidInputError(
                "SCOPE_UNKNOWN",
                f"there is no scope {scope[:64]!r}; the scopes are {', '.join(SCOPES)}",
                metadata={"scope": scope[:64]},
                field_violations=[(field, f"{scope[:64]!r} is not a scope")],
            )
    return tuple(scope for scope in SCOPES if scope in wanted)
