"""Makes packs of networks that are none yet, with what `lensmith[packs]` brings."""

import json
import re
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lensmith.errors import AlreadyExistsError, InvalidInputError, LensmithError
from lensmith.packs.summary import CARD, is_pack, read_card
from lensmith.types import BaseModel

if TYPE_CHECKING:
    from lensmith_vision.errors import VisionError

PREPROCESSOR: Final = "preprocessor_config.json"
VIEWS: Final = 8
"""Views of a picture that a pack can be made to have, beside one."""


@dataclass(frozen=True)
class Wishes:
    """What the user says of a network that is made into a pack; what is empty or None is found out.

    Attributes:
        id: Id of the base model.
        rank: Which of the installed ones apps get: the highest.
        called: How the network is called where it comes from; its id is made of it where nothing else says one.
        licence: As far as the folder does not say it.
        source: Where it comes from, as far as the folder does not say it.
        graph: Path of the ONNX file in the folder of a published network.
        views: Views of each picture that make one vector, 1 or 8.
    """

    id: str = ""
    rank: int | None = None
    called: str = ""
    licence: str = ""
    source: str = ""
    graph: str = ""
    views: int = 1


def is_ready(folder: Path) -> bool:
    """Whether a folder is a pack already.

    Raises:
        InvalidInputError: `PACK_INVALID`: it holds neither a pack nor a network.
    """
    if (folder / PREPROCESSOR).is_file() and not (folder / CARD).is_file():
        return False
    return is_pack(read_card(folder))


def convert(folder: Path, scratch: Path, wishes: Wishes) -> Path:
    """Makes a pack of the network in a folder.

    Args:
        folder: A network with a descriptive `card.json`, or one as hubs publish them.
        scratch: The pack becomes a subfolder.
        wishes: What the folder does not say.

    Raises:
        InvalidInputError: `PACK_INVALID`: it cannot be made into one. `EXTRA_MISSING`: that needs more than the client.
    """
    try:
        from lensmith_vision.errors import PackError
        from lensmith_vision.fine_tune.starts import MOBILENET_V2_WEIGHTS, mobilenet_v2_pack
        from lensmith_vision.pack_builder import DEFAULT_RANK, build_pack, read_source
        from lensmith_vision.published import Provenance, read_published
    except ImportError as error:
        raise InvalidInputError(
            "EXTRA_MISSING",
            f"{folder} is a network but no model pack; making one of it needs: pip install 'lensmith[packs]'",
        ) from error
    try:
        if (folder / MOBILENET_V2_WEIGHTS).is_file():
            pack = scratch / "trainable"
            mobilenet_v2_pack(folder, pack, id=wishes.id, rank=wishes.rank)
            return pack
        if (folder / PREPROCESSOR).is_file():
            provenance = Provenance(
                id=wishes.id or own_id(wishes.called),
                display_name=wishes.called or wishes.id,
                licence=wishes.licence or "unknown",
                source=wishes.source or wishes.called or "unknown",
                rank=DEFAULT_RANK if wishes.rank is None else wishes.rank,
            )
            source = read_published(folder, provenance, folder / wishes.graph if wishes.graph else None)
        else:
            source = read_source(folder)
            source = replace(
                source, id=wishes.id or source.id, rank=source.rank if wishes.rank is None else wishes.rank
            )
        pack = scratch / source.id
        build_pack(source, pack)
    except PackError as error:
        raise _invalid(folder, error) from error
    return pack


def shipped(name: str) -> Path | None:
    """The folder of the pack of this name that ships with Lensmith, if there is one."""
    folder = files("lensmith_vision") / "packs" / name
    ships = re.fullmatch(r"[a-z0-9-]+", name) is not None and (folder / CARD).is_file()
    return Path(str(folder)) if ships else None


def with_views(folder: Path, scratch: Path, wishes: Wishes) -> Path:
    """Makes a pack that looks at each picture several times out of one that looks once.

    Args:
        folder: The pack.
        scratch: The new pack becomes a subfolder.
        wishes: Id and rank of the new one.

    Raises:
        InvalidInputError: `PACK_INVALID`: it cannot be made. `EXTRA_MISSING`: that needs more than the client.
    """
    try:
        from lensmith_vision.errors import PackError
        from lensmith_vision.views import build_pack_of_views
    except ImportError as error:
        raise InvalidInputError("EXTRA_MISSING", "packs of views need: pip install 'lensmith[packs]'") from error
    try:
        build_pack_of_views(folder, scratch / "views", id=wishes.id, rank=wishes.rank)
    except PackError as error:
        raise _invalid(folder, error) from error
    return scratch / "views"


def own_id(name: str) -> str:
    """An id of a base model, made of any name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-") or "network"


def settle_version(pack: Path, installed: BaseModel | None) -> bool:
    """Numbers a pack that was just made, counting from the one that is installed under its id.

    Returns:
        Whether it has to be installed; the same network with the same preprocessing is there already otherwise.

    Raises:
        AlreadyExistsError: `BASE_MODEL_EXISTS`: the id belongs to a network from elsewhere.
    """
    from lensmith_vision.pack import load_card, space_of

    if installed is None:
        return True
    card = load_card(pack)
    same = replace(card, version=int(installed.version))
    if card.sha256 == installed.sha256 and space_of(same).id == installed.space:
        return False
    if _origin(card.source) != _origin(installed.source):
        raise AlreadyExistsError(
            "BASE_MODEL_EXISTS",
            f"{installed.id!r} is installed from elsewhere ({installed.source}); --name gives this one another name",
        )
    document = json.loads((pack / CARD).read_text(encoding="utf-8"))
    document["version"] = int(installed.version) + 1
    (pack / CARD).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def _origin(source: str) -> str:
    """Where a network comes from, whichever of its revisions it is."""
    return re.sub(r"^(hf:[^@:]+|timm:[^ ]+).*", r"\1", source)


def _invalid(folder: Path, error: "VisionError") -> LensmithError:
    return InvalidInputError("PACK_INVALID", f"{folder.name}: {error}")
