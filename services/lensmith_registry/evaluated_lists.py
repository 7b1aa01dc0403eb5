"""Lists of evaluated inputs that somebody is paging through: their order follows from millions of scores, once."""

from __future__ import annotations

from collections import OrderedDict

from lensmith_registry.evaluated_inputs import Places

__all__ = ["EvaluatedLists"]

_MOST_PLACES = 4_000_000
"""16 MB; lists of 50,000 inputs take 200 KB each."""
_LEAST = 100
"""What a list counts at least, for an empty one takes memory too."""


class EvaluatedLists:
    """Remembers the lists that were asked for last, as many as fit; whatever is forgotten is made again.

    Args:
        most_places: Inputs of all lists together.
    """

    def __init__(self, most_places: int = _MOST_PLACES) -> None:
        self._most_places = most_places
        self._lists: OrderedDict[str, Places] = OrderedDict()
        self._places = 0

    def get(self, key: str) -> Places | None:
        """Return a list, or None where it is to be made."""
        if key in self._lists:
            self._lists.move_to_end(key)
        return self._lists.get(key)

    def put(self, key: str, places: Places) -> None:
        """Remember a list; those that were not asked for longest are forgotten for it.

        Args:
            key: Names a version at its thresholds, and what of it is listed: what it stands for never changes.
            places: The list.
        """
        if key in self._lists:
            self._places -= _cost(self._lists.pop(key))
        self._lists[key] = places
        self._places += _cost(places)
        while self._places > self._most_places:
            _, forgotten = self._lists.popitem(last=False)
            self._places -= _cost(forgotten)


def _cost(places: Places) -> int:
    return max(len(places), _LEAST)
