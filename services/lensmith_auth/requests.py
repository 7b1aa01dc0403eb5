"""What is said to a request whose request_id is in the way."""

from lensmith_platform.errors import AlreadyExistsError, ConflictError

__all__ = ["request_id_reused", "request_in_progress"]


def request_id_reused(request_id: str) -> AlreadyExistsError:
    """The error for a request_id that stood in another request before."""
    return AlreadyExistsError(
        "REQUEST_ID_REUSED", "this request_id was used for another request", metadata={"request_id": request_id}
    )


def request_in_progress() -> ConflictError:
    """The error for a request_id that another call, which has not ended, came with."""
    return ConflictError("REQUEST_IN_PROGRESS", "a call with the same request_id was in the way; try again")
