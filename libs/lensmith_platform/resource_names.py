"""Resource names: `apps/{app}/inputs/{input}` taken apart and put together."""

import re
from functools import lru_cache

from lensmith_platform.errors import InvalidInputError

MAX_ID_LENGTH = 256
"""Most characters of one own id."""

_VARIABLE = re.compile(r"\{([a-z_]+)\}")
# An own id: no slash, no control character (C0, DEL, C1), no line separator that would tear log lines apart.
_ID = rf"[^/\x00-\x1f\x7f-\x9f\u2028\u2029]{{1,{MAX_ID_LENGTH}}}"


def parse(template: str, name: str, *, field: str = "name") -> dict[str, str]:
    """Take a resource name apart.

    Args:
        template: its form, `apps/{app}/inputs/{input}`.
        name: the name that a caller sent.
        field: request field it came in, for the error.

    Returns:
        The own ids by variable: ``{"app": "trash", "input": "7"}``.

    Raises:
        InvalidInputError: RESOURCE_NAME_INVALID; the name has another form.
    """
    match = _compiled(template).fullmatch(name)
    if match is None:
        raise InvalidInputError(
            "RESOURCE_NAME_INVALID",
            f"{field} must look like {template}; it is {_shown(name)}",
            metadata={"field": field, "form": template},
            field_violations=[(field, f"must look like {template}")],
        )
    return match.groupdict()


def build(template: str, **parts: str | int) -> str:
    """Put a resource name together: ``build("apps/{app}", app="trash")``."""
    return template.format(**parts)


@lru_cache(maxsize=256)
def _compiled(template: str) -> re.Pattern[str]:
    pattern = "".join(
        f"(?P<{part}>{_ID})" if index % 2 else re.escape(part) for index, part in enumerate(_VARIABLE.split(template))
    )
    return re.compile(pattern)


def _shown(name: str) -> str:
    if not name:
        return "empty"
    return repr(name if len(name) <= 200 else name[:199] + "…")
