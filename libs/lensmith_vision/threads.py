"""Work side by side on all cores: whole folds, not parts of one product.

Threads that wait for each other inside a product cost more than they save as soon as the machine does anything else.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["cores", "give_memory_back", "in_threads"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Do work that spends its time outside the interpreter for each item; results in their order."""
    with ThreadPoolExecutor(cores()) as executor:
        return list(executor.map(work, items))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_memory_back() -> None:
    """Give freed memory back to the system; each thread's own part of it would be kept for a next use."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
