"""Etags: a change that was made from an older state is refused."""

from lensmith_platform.errors import ConflictError


def check(sent: str, current: str) -> None:
    """Refuse a change whose etag is not that of the resource as it is, locked by the caller; empty: any will do.

    Raises:
        ConflictError: ETAG_MISMATCH.
    """
    if sent and sent != current:
        raise ConflictError(
            "ETAG_MISMATCH",
            "the etag is not the current one: it was changed meanwhile; read it again and repeat the change",
            metadata={"etag": current},
        )
