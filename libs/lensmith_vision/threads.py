"""Work side by side on all cores: whole folds, not parts of one product.

Threads that wait for each other inside a product cost more than they save as soon as the machine does anything else.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["cores", "give_memory_back", "in_threads", "keep_memory", "share_memory"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_LITTLE = 32 << 20
_PARTS = 16

_MOST_ARENAS, _LEAST_MAPPED, _LEAST_TRIMMED = -8, -3, -1
"""`M_ARENA_MAX`, `M_MMAP_THRESHOLD` and `M_TRIM_THRESHOLD` of the C library."""

_MAPPED = 32 << 20
"""The most that the C library lets the second of them be; what is larger is the system's again when it is freed."""


def in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Do work that spends its time outside the interpreter for each item; results in their order.

    Each thread, this one too, takes the next item when it is done with one: a future for each would cost more than
    many of them do.
    """
    lock, done = threading.Lock(), dict[int, _Result]()
    waiting: Iterator[tuple[int, _Item]] = enumerate(items)

    def take() -> None:
        nonlocal waiting
        while True:
            with lock:
                following = next(waiting, None)
            if following is None:
                return
            place, item = following
            try:
                done[place] = work(item)
            except BaseException:
                with lock:
                    waiting = iter(())
                raise

    with ThreadPoolExecutor(cores()) as executor:
        beside = [executor.submit(take) for _ in range(cores() - 1)]
        take()
        for thread in beside:
            thread.result()
    return [done[place] for place in range(len(done))]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_memory_back(work: int) -> None:
    """Give freed memory back to the system; each thread's own part of it would be kept for a next use.

    Args:
        work: Bytes of what is worked on. Of little, what was freed is kept: the next step needs as much again, and to
            be given it page by page takes a tenth of the time of a small fit.
    """
    if work < _LITTLE:
        return
    trim = _of_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def share_memory() -> None:
    """Let all threads of this process take memory from one place; those of their own keep what was freed in them.

    To be called before there are threads. It suits who asks for much at once and seldom.
    """
    set_option = _of_c_library("mallopt")
    if set_option is not None:
        set_option(_MOST_ARENAS, 1)


def keep_memory(size: int) -> None:
    """Take memory from the system and keep it for whatever comes, until `give_memory_back` is called for a large work.

    Being given it page by page takes a sixth of the time of a first small fit. To be called after `share_memory`.

    Args:
        size: Bytes.
    """
    set_option = _of_c_library("mallopt")
    if set_option is not None and set_option(_LEAST_MAPPED, _MAPPED) and set_option(_LEAST_TRIMMED, 2 * size):
        # Written to, in parts that are not given back when they are freed.
        _ = [b"\1" * (size // _PARTS) for _ in range(_PARTS)]


def _of_c_library(name: str) -> Callable[..., int] | None:
    """A function of its own, which not every C library has."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
