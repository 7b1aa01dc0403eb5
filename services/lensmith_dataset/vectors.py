"""Vectors between the numbers of a model, a halfvec of Postgres and the float16 that trainers read."""

import struct
from collections.abc import Sequence

import numpy as np
from asyncpg import Connection

MAX_DIMENSIONS = 4000
"""A halfvec is stored in one page."""

_HEADER = struct.Struct(">HH")
"""What a halfvec begins with on the wire: its length, and a zero kept for later."""

_LARGEST = float(np.finfo(np.float16).max)


async def pass_halfvec(connection: Connection) -> None:
    """Pass halfvecs of a connection as the bytes that Postgres sends and takes: as text they are ten times slower."""
    await connection.set_type_codec("halfvec", schema="public", encoder=bytes, decoder=bytes, format="binary")


def halfvec_from_numbers(vector: Sequence[float], dimensions: int) -> bytes | None:
    """Return a vector as a halfvec, or None if it has another length or numbers that float16 cannot hold."""
    values = np.fromiter(vector, np.float64, len(vector))
    if len(values) != dimensions or not 0 < dimensions <= MAX_DIMENSIONS:
        return None
    # Written so that NaN fails as well.
    if not bool((np.abs(values) <= _LARGEST).all()):
        return None
    return _HEADER.pack(dimensions, 0) + values.astype(">f2").tobytes()


def halfvec_from_float16(vector: bytes) -> bytes | None:
    """Return little-endian float16 as a halfvec, or None if it is empty, too long, cut off or not finite."""
    dimensions = len(vector) // 2
    if len(vector) % 2 or not 0 < dimensions <= MAX_DIMENSIONS:
        return None
    values = np.frombuffer(vector, "<f2")
    return _HEADER.pack(dimensions, 0) + values.astype(">f2").tobytes() if np.isfinite(values).all() else None


def float16_from_halfvec(halfvec: bytes) -> bytes:
    """Return the numbers of a halfvec as little-endian float16; empty stays empty."""
    return np.frombuffer(halfvec, ">f2", offset=_HEADER.size).astype("<f2").tobytes() if halfvec else b""


def float16_from_halfvecs(halfvecs: Sequence[bytes]) -> bytes:
    """Return the numbers of halfvecs of one length as little-endian float16, one vector after the other."""
    header = _HEADER.size // np.dtype(">f2").itemsize
    numbers = np.frombuffer(b"".join(halfvecs), ">f2").reshape(len(halfvecs), -1)[:, header:]
    return numbers.astype("<f2").tobytes()
