"""What is remembered of lists that somebody pages through is bounded."""

import numpy as np

from lensmith_registry.evaluated_lists import EvaluatedLists


def test_lists_that_were_not_asked_for_longest_are_forgotten_when_they_are_too_many() -> None:
    lists = EvaluatedLists(most_places=1000)
    for key in ("a", "b"):
        lists.put(key, np.zeros(400, np.int32))
    assert lists.get("a") is not None
    # The same again takes no more; a third one does.
    lists.put("a", np.zeros(400, np.int32))
    lists.put("c", np.zeros(400, np.int32))
    assert [lists.get(key) is not None for key in "abc"] == [True, False, True]
    # Empty ones count as well; one that never fits is not remembered.
    for number in range(20):
        lists.put(f"empty {number}", np.zeros(0, np.int32))
    assert sum(lists.get(f"empty {number}") is not None for number in range(20)) == 10
    lists.put("huge", np.zeros(1001, np.int32))
    assert lists.get("huge") is None
