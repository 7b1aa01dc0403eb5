"""Networks of fine-tuned versions: their files come in, are held against their card, and go again."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from tempfile import SpooledTemporaryFile
from uuid import UUID

from lensmith_api.internal.v1.training_job_service_pb2 import NetworkFileHeader, PutNetworkFileRequest
from lensmith_platform.blobs import Blobs
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, PreconditionError
from lensmith_platform.principal import current_call
from lensmith_registry import network_store, version_store
from lensmith_registry.network_store import StoredNetwork
from lensmith_registry.version_store import VersionRow
from lensmith_vision.card import CARD_FILE, LABELS_FILE, MODEL_FILE, Card, card_from_json
from lensmith_vision.errors import PackError, VisionError
from lensmith_vision.graph_file import check_graph_bytes
from lensmith_vision.heads import Head
from lensmith_vision.networks import network_id
from lensmith_vision.pack import MAX_CARD_BYTES, MAX_LABEL_BYTES, space_of

__all__ = ["NETWORK_FILES", "Networks", "network_key", "network_prefix"]

NETWORK_FILES = (CARD_FILE, MODEL_FILE, LABELS_FILE)
"""Files that the pack of a network has."""

_IN_MEMORY = 4 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TYPES = {CARD_FILE: "application/json", LABELS_FILE: "text/plain; charset=utf-8"}


def network_prefix(app_id: int, version_uid: str) -> str:
    """What the keys of all files of a version's networks begin with, those of given-up trainers among them."""
    return f"networks/{app_id}/{version_uid}/"


def network_key(app_id: int, version_uid: str, lease: int) -> str:
    """Key of a network among the blobs, below which its files lie.

    Each lease has its own, so that a trainer given up for dead overwrites nothing of the one that came after it.
    """
    return f"{network_prefix(app_id, version_uid)}{lease}"


class Networks:
    """Takes networks in.

    Args:
        database: Of the service's role.
        blobs: Where they lie.
        lease_seconds: How long a lease lasts without a report.
        max_bytes: Largest graph; it is held in memory once.
    """

    def __init__(self, database: Database, blobs: Blobs, lease_seconds: float, max_bytes: int) -> None:
        self._database = database
        self._blobs = blobs
        self._lease_seconds = lease_seconds
        self._most = {CARD_FILE: MAX_CARD_BYTES, MODEL_FILE: max_bytes, LABELS_FILE: MAX_LABEL_BYTES}

    async def put(self, parts: AsyncIterator[PutNetworkFileRequest]) -> None:
        """Store one file of a network; the same again changes nothing.

        Raises:
            InvalidInputError: NETWORK_FILE_INVALID, NETWORK_FILE_TOO_LARGE, or PACK_GRAPH_…: no graph that is opened.
            ForbiddenError: TOKEN_NOT_FOR_APP.
            ConflictError: LEASE_LOST.
        """
        header = await self._header(parts)
        uid = _uid(header.version_uid)
        content = await self._content(parts, header)
        if header.file_name == MODEL_FILE:
            await asyncio.to_thread(_check_graph, content)
        network = network_key(header.app_id, str(uid), header.lease)
        if not await self._name(header, uid, network):
            return
        key = f"{network}/{header.file_name}"
        await self._blobs.put(key, content, _TYPES.get(header.file_name, "application/octet-stream"))
        try:
            await self._name(header, uid, network)
        except ConflictError:
            # Lost while the bytes were on their way: whoever came next may have cleaned up before they arrived.
            await self._blobs.delete([key])
            raise

    async def described(self, row: VersionRow, lease: int, space: str, head: Head) -> StoredNetwork:
        """Hold the files that were put against their card, and that against what is handed in with it.

        Raises:
            PreconditionError: NETWORK_MISSING: a file was not put under this lease.
            InvalidInputError: NETWORK_INVALID: they do not belong together.
        """
        network = network_key(row.app_id, str(row.uid), lease)
        try:
            if row.network != network:
                raise NotFoundError("BLOB_NOT_FOUND", "nothing was put")
            card = card_from_json((await self._blobs.get(f"{network}/{CARD_FILE}")).decode())
            sha256, size = await self._hashed(f"{network}/{MODEL_FILE}")
            labels = (await self._blobs.get(f"{network}/{LABELS_FILE}")).decode().splitlines()
        except NotFoundError as error:
            raise PreconditionError(
                "NETWORK_MISSING", f"the files of the network of {row.name} were not put under this lease"
            ) from error
        except (VisionError, UnicodeDecodeError) as error:
            raise _invalid(str(error)) from error
        if (card.sha256, card.bytes) != (sha256, size):
            raise _invalid("its graph is not the one that its card tells of")
        _check(card, row, space, head, labels)
        side = max(card.resize.height, card.resize.width)
        return StoredNetwork(space, sha256, size, card.feature_dim, side)

    async def drop_others(self, row: VersionRow, lease: int) -> None:
        """Delete what trainers that were given up for dead left of a version's networks."""
        if lease > 1 and row.network:
            keys = await self._blobs.list(network_prefix(row.app_id, str(row.uid)))
            kept = f"{network_key(row.app_id, str(row.uid), lease)}/"
            await self._blobs.delete([key for key in keys if not key.startswith(kept)])

    async def _header(self, parts: AsyncIterator[PutNetworkFileRequest]) -> NetworkFileHeader:
        first = await anext(aiter(parts), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidInputError("NETWORK_FILE_INVALID", "the first message must be a header")
        header = first.header
        bound = current_call().principal.service_app_id
        if bound and bound != header.app_id:
            # The interceptor sees the app of requests that name it themselves, not in a part of theirs.
            raise ForbiddenError("TOKEN_NOT_FOR_APP", f"the token is for app {bound}, not for {header.app_id}")
        if header.file_name not in NETWORK_FILES:
            raise InvalidInputError("NETWORK_FILE_INVALID", f"file_name must be one of {', '.join(NETWORK_FILES)}")
        if not _SHA256.fullmatch(header.sha256):
            raise InvalidInputError("NETWORK_FILE_INVALID", "sha256 must be 64 lower-case hexadecimal digits")
        return header

    async def _content(self, parts: AsyncIterator[PutNetworkFileRequest], header: NetworkFileHeader) -> bytes:
        most, size, digest = self._most[header.file_name], 0, hashlib.sha256()
        # On the disk while it comes: many may come at once, and slowly.
        with SpooledTemporaryFile(_IN_MEMORY) as file:
            async for part in parts:
                if part.WhichOneof("part") != "chunk":
                    raise InvalidInputError("NETWORK_FILE_INVALID", "after the header there are chunks only")
                size += len(part.chunk)
                if size > most:
                    raise InvalidInputError(
                        "NETWORK_FILE_TOO_LARGE",
                        f"{header.file_name} of a network has at most {most} bytes",
                        metadata={"file_name": header.file_name, "max": str(most)},
                    )
                digest.update(part.chunk)
                await asyncio.to_thread(file.write, part.chunk)
            if digest.hexdigest() != header.sha256:
                raise InvalidInputError(
                    "NETWORK_FILE_INVALID", f"{header.file_name} does not have the SHA-256 it came with"
                )
            file.seek(0)
            return await asyncio.to_thread(file.read)

    async def _name(self, header: NetworkFileHeader, uid: UUID, network: str) -> bool:
        """Keep the lease and name the network; False: an answer was lost, and the version is complete with it."""
        async with self._database.transaction(header.app_id) as connection:
            if await network_store.name_network(
                connection, header.app_id, uid, header.lease, self._lease_seconds, network
            ):
                return True
            row = await version_store.version_by_uid(connection, header.app_id, uid)
        if row.lease == header.lease and row.network == network and row.completed_at is not None:
            return False
        raise ConflictError(
            "LEASE_LOST",
            f"this trainer may write {row.name} no more",
            metadata={"state": row.state, "lease": str(row.lease)},
        )

    async def _hashed(self, key: str) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        async for chunk in self._blobs.stream(key):
            digest.update(chunk)
            size += len(chunk)
        return digest.hexdigest(), size


def _check(card: Card, row: VersionRow, space: str, head: Head, labels: list[str]) -> None:
    if card.id != network_id(str(row.uid)) or space_of(card).id != space:
        raise _invalid(f"its card is of {space_of(card).id}, not of the network of {row.name} in {space}")
    if card.feature_dim != head.dim:
        raise _invalid(f"it gives {card.feature_dim} features, and its head takes {head.dim}")
    if card.logits is None or card.logits.dim != len(head.concepts) or len(labels) != len(head.concepts):
        raise _invalid("it must have a logit and a label for each concept of its head")


def _check_graph(content: bytes) -> None:
    """Refuse what no server that is asked for it would open."""
    try:
        check_graph_bytes(content, MODEL_FILE)
    except PackError as error:
        raise InvalidInputError(error.reason, str(error), metadata=error.metadata) from error


def _invalid(why: str) -> InvalidInputError:
    return InvalidInputError("NETWORK_INVALID", f"the network cannot be used: {why}")


def _uid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInputError("VERSION_UID_INVALID", "version_uid is no UUID") from error
