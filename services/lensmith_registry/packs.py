"""Model packs on their way in: verified, their bytes stored, and only then a row that makes them known."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from lensmith_platform.blobs import Blobs
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import AlreadyExistsError, InvalidInputError
from lensmith_platform.principal import MAIN_APP_ID
from lensmith_registry import base_model_store, public_models
from lensmith_registry.base_model_store import BaseModelRow
from lensmith_registry.public_models import Classifier
from lensmith_vision.errors import VisionError
from lensmith_vision.networks import is_network_id
from lensmith_vision.pack import (
    CALIBRATION_FILE,
    CARD_FILE,
    LABELS_FILE,
    MODEL_FILE,
    find_packs,
    load_calibration,
    load_card,
    load_labels,
    space_of,
    verify,
)

__all__ = ["PACK_FILES", "PackInstaller"]

PACK_FILES = (CARD_FILE, MODEL_FILE, LABELS_FILE, CALIBRATION_FILE)
"""Files that a pack may have."""

_CONTENT_TYPES = {
    CARD_FILE: "application/json",
    LABELS_FILE: "text/plain; charset=utf-8",
    CALIBRATION_FILE: "application/json",
}
_LOG = logging.getLogger(__name__)


class PackInstaller:
    """Installs packs, one at a time: verifying one takes the memory of its network.

    Args:
        database: Of the service's role.
        blobs: Where the files go.
    """

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._one_at_a_time = asyncio.Lock()

    async def install(self, folder: Path) -> BaseModelRow:
        """Install the pack of a folder; installing the same again changes nothing.

        Raises:
            InvalidInputError: The pack does not keep the contract; the reason is the vision library's.
            AlreadyExistsError: Another content is installed under its name and version, or its model's name is taken.
        """
        async with self._one_at_a_time:
            row = await self._described(folder, verified=False)
            known = await self._known(row)
            if known is not None:
                return known
            row = await self._described(folder, verified=True)
            classifier = await asyncio.to_thread(_classifier, folder) if row.model else None
            for name in row.files:
                content = await asyncio.to_thread((folder / name).read_bytes)
                await self._blobs.put(row.key_of(name), content, _CONTENT_TYPES.get(name, "application/octet-stream"))
            return await self._store(row, classifier)

    async def install_folders(self, roots: Sequence[Path]) -> None:
        """Install every pack below some folders; a broken one is logged and passed over.

        Raises:
            DependencyUnavailableError: The database or the blobs are away; what is installed by then stays.
        """
        for folder in [pack for root in roots for pack in await asyncio.to_thread(find_packs, root)]:
            try:
                row = await self.install(folder)
            except (InvalidInputError, AlreadyExistsError) as error:
                _LOG.error("pack %s is not installed: %s: %s", folder, error.reason, error)
            else:
                _LOG.info("base model %s version %d is installed, space %s", row.name, row.version, row.space)

    async def _described(self, folder: Path, *, verified: bool) -> BaseModelRow:
        try:
            row = await asyncio.to_thread(_describe, folder, verified)
        except VisionError as error:
            raise InvalidInputError(error.reason, str(error), metadata=error.metadata) from error
        if is_network_id(row.name):
            raise InvalidInputError(
                "PACK_ID_RESERVED", f"{row.name} is kept for the network of a fine-tuned version: give it another id"
            )
        return row

    async def _known(self, row: BaseModelRow) -> BaseModelRow | None:
        async with self._database.transaction(None) as connection:
            known = await base_model_store.version_of(connection, row.name, row.version)
        if known is not None and known.pack_sha256 != row.pack_sha256:
            raise AlreadyExistsError(
                "BASE_MODEL_EXISTS",
                f"version {row.version} of base model {row.name!r} is installed with another content; "
                "a changed network needs a new version",
                metadata={"name": row.name, "version": str(row.version)},
            )
        return known

    async def _store(self, row: BaseModelRow, classifier: Classifier | None) -> BaseModelRow:
        async with self._database.transaction(MAIN_APP_ID) as connection:
            stored = await base_model_store.insert_base_model(connection, row)
            if stored is not None:
                if classifier is not None:
                    await public_models.publish(connection, row, classifier)
                return stored
        # Somebody else was first: with the same content that is a success, with another one it is refused.
        known = await self._known(row)
        if known is None:
            raise AlreadyExistsError(
                "SPACE_EXISTS", f"another base model has the space {row.space!r}", metadata={"space": row.space}
            )
        return known


def _classifier(folder: Path) -> Classifier:
    return public_models.classifier_of(load_card(folder), load_labels(folder), load_calibration(folder))


def _describe(folder: Path, verified: bool) -> BaseModelRow:
    """Read a pack into a row; `verified` proves it, which takes seconds."""
    card = verify(folder) if verified else load_card(folder)
    files = tuple(name for name in PACK_FILES if (folder / name).is_file() and (name != LABELS_FILE or card.logits))
    digest = hashlib.sha256()
    for name in files:
        with (folder / name).open("rb") as file:
            digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    has_classifier = card.logits is not None and LABELS_FILE in files
    return BaseModelRow(
        name=card.id,
        version=card.version,
        space=space_of(card).id,
        display_name=card.display_name,
        description=card.description,
        licence=card.licence,
        source=card.source,
        dimensions=card.feature_dim,
        input_side=max(card.resize.height, card.resize.width),
        views=card.views,
        sha256=card.sha256,
        size_bytes=card.bytes,
        pack_sha256=digest.hexdigest(),
        files=files,
        rank=card.rank,
        model=public_models.public_model_id(card) if has_classifier else "",
    )
