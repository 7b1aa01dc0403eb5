"""Networks of timm by name, with what `lensmith[finetune]` and timm bring."""

from pathlib import Path
from typing import Final

from lensmith.errors import InvalidInputError
from lensmith.packs.conversion import Wishes, own_id
from lensmith.packs.download import Expected

TIMM: Final = "timm:"
_SUFFIX: Final = ".safetensors"


def is_timm_name(source: str) -> bool:
    """Whether a source is a network of timm."""
    return source.startswith(TIMM)


def timm_network(source: str, scratch: Path, sha256: str, wishes: Wishes) -> Path:
    """Makes a pack of a network of timm.

    Args:
        source: `timm:NAME`, with weights that timm fetches, or `timm:NAME:FILE.safetensors`.
        scratch: The pack becomes a subfolder.
        sha256: What the file must have.
        wishes: Id and rank.

    Raises:
        InvalidInputError: `SOURCE_INVALID`; `CHECKSUM_MISMATCH`; `PACK_INVALID`: timm lacks it, or no pack can be made
            of it; `EXTRA_MISSING`: that needs more than the client.
    """
    name, _, file = source.removeprefix(TIMM).partition(":")
    weights = Path(file).expanduser() if file else None
    if not name or (weights is not None and (weights.suffix != _SUFFIX or not weights.is_file())):
        raise InvalidInputError(
            "SOURCE_INVALID", f"{source}: say {TIMM}NAME, or {TIMM}NAME:FILE{_SUFFIX} of a file that is here"
        )
    if sha256 and weights is None:
        raise InvalidInputError("SOURCE_INVALID", f"--sha256 needs {TIMM}NAME:FILE{_SUFFIX}")
    if sha256 and weights is not None:
        Expected(sha256=sha256).check(weights, weights.name)
    try:
        from lensmith_vision.errors import PackError
        from lensmith_vision.fine_tune.timm_start import timm_id, timm_pack
    except ImportError as error:
        raise InvalidInputError("EXTRA_MISSING", _needs(str(error))) from error
    id = wishes.id or own_id(timm_id(name))
    try:
        timm_pack(name, scratch / id, weights=weights, id=id, rank=wishes.rank)
    except PackError as error:
        if error.reason == "TIMM_NOT_INSTALLED":
            raise InvalidInputError("EXTRA_MISSING", str(error)) from error
        raise InvalidInputError("PACK_INVALID", f"{source}: {error}") from error
    return scratch / id


def _needs(why: str) -> str:
    return f"networks of timm need: pip install 'lensmith[finetune]' timm ({why})"
