"""Names of fine-tuned networks: each is of one version, and never taken for a base network that everybody shares."""

from __future__ import annotations

import re

__all__ = ["is_network_id", "is_network_space", "network_id"]

_PREFIX = "network-"
_UID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ID = re.compile(rf"{_PREFIX}{_UID}")
_SPACE = re.compile(rf"{_PREFIX}{_UID}\.[a-z0-9.\-]*")


def network_id(version_uid: str) -> str:
    """Return the id that the card of a version's network has; its space begins with it.

    Args:
        version_uid: uid of the version, in its usual form with dashes.

    Raises:
        ValueError: It is no uid.
    """
    name = f"{_PREFIX}{version_uid}"
    if not is_network_id(name):
        raise ValueError(f"{version_uid!r} is no uid of a version")
    return name


def is_network_id(card_id: str) -> bool:
    """Tell whether the id of a card is kept for fine-tuned networks: no base network may be called so."""
    return _ID.fullmatch(card_id) is not None


def is_network_space(space: str) -> bool:
    """Tell whether a space is that of a fine-tuned network."""
    return _SPACE.fullmatch(space) is not None
