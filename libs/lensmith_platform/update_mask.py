"""Update masks: which fields of a resource a caller wants to change."""

from collections.abc import Collection

from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_platform.errors import InvalidInputError


def apply(mask: FieldMask, allowed: Collection[str], *, field: str = "update_mask") -> list[str]:
    """Read an update mask.

    Args:
        mask: the mask that the caller sent.
        allowed: paths that may be changed.
        field: name of the request field, for the error.

    Returns:
        The paths to change, each once, in the caller's order.

    Raises:
        InvalidInputError: UPDATE_MASK_EMPTY, or UPDATE_MASK_INVALID that names the path and what may be changed.
    """
    if not mask.paths:
        raise InvalidInputError(
            "UPDATE_MASK_EMPTY",
            f"{field} must name what to change: {', '.join(sorted(allowed))}",
            field_violations=[(field, "must not be empty")],
        )
    for path in mask.paths:
        if path not in allowed:
            raise InvalidInputError(
                "UPDATE_MASK_INVALID",
                f"{field} names {path[:64]!r}, which cannot be changed; it may name {', '.join(sorted(allowed))}",
                metadata={"path": path[:64]},
                field_violations=[(field, f"{path[:64]!r} cannot be changed")],
            )
    return list(dict.fromkeys(mask.paths))
