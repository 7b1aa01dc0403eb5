"""What a graph file may hold, found out before anything opens it: the file is walked, its weights are stepped over.

ONNX lets a file name other files, and addresses in memory, as the place of its weights; and lets nodes ask for
operators that only somebody's library has. A pack is one file that stands for itself, so neither is let in. The walk
reads the protobuf encoding (https://protobuf.dev/programming-guides/encoding/) where it lies: parsing would copy every
weight.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lensmith_vision.errors import PackError

__all__ = ["check_graph_bytes", "check_graph_file"]

MAX_BYTES = (1 << 31) - 1
"""What protobuf can hold; also of all functions together in a graph in which each call is written out."""

MAX_NODES = 20_000
"""And functions; also of a graph in which each call of a function is written out, which engines do. The time that they
take to open a graph grows with the square, to some seconds for so many; large networks for pictures have some thousand.
"""

MAX_VALUES = 40_000
"""Tensors, and what nodes give, each call of a function written out: time grows with the square of these, too."""

MAX_NAME_BYTES = 512
"""Of an operator, and of its domain."""

MAX_DEPTH = 16
"""Of graphs inside nodes."""

MAX_WRITTEN_DEPTH = 64
"""Of graphs and functions inside each other, once each call of a function is written out: engines go down by recursion,
and end where the stack does."""

MAX_GIVEN_BYTES = 1024
"""Of what a call gives to a function, which writes it out wherever it names it."""

MAX_FIELDS = 1_000_000
"""Fields looked at: a file of weights written one by one would keep the walk busy for minutes, and engines after it."""

MAX_RANK = 64
"""Of a tensor; ONNX has operators for some eight dimensions."""

MAX_SPARSE_ELEMENTS = 1 << 28
"""Of a sparse tensor once it is written out, which engines do."""

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Whose operators ONNX Runtime brings itself."""

# Numbers of fields in onnx.proto: which messages lie in which, and what is looked at in each.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {},
    "sparse": {1: "tensor", 2: "tensor"},
}
_ONCE = {"model": {7}, "training": {1, 2}, "attribute": {5, 6, 22}, "sparse": {1, 2}}
"""Messages that protobuf makes one of where there are several: each small enough, and together of any shape."""

_DIMS = {"tensor": 1, "sparse": 3}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_NAME_AND_DOMAIN = {"node": (4, 7), "function": (1, 10)}
_NODE_OUTPUT = 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ELEMENTS_A_BYTE = 4
"""Of the narrowest numbers that ONNX has."""

_Buffer = bytes | mmap.mmap
_Field = tuple[int, int, int, int]
_Message = tuple[str, int, int, int, int]
_Call = tuple[str, str]
_MAIN = 0
"""Where the model begins; each function has a place of its own."""


def check_graph_file(path: Path) -> None:
    """Refuse a graph that needs more than its own file and ONNX Runtime, or more of a machine than graphs do.

    Raises:
        PackError: PACK_GRAPH_EXTERNAL_DATA: weights lie elsewhere. PACK_GRAPH_OPERATOR_UNKNOWN: an operator of
            somebody's library. PACK_GRAPH_TOO_LARGE: too many bytes, nodes, parts or elements. PACK_GRAPH_INVALID: no
            graph.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(data, path.name).check()
    except (OSError, ValueError) as error:
        raise PackError("PACK_GRAPH_INVALID", f"{path.name} cannot be read: {error}") from error


def check_graph_bytes(data: bytes, name: str) -> None:
    """See :func:`check_graph_file`; `name` is what errors call it."""
    _Walk(data, name).check()


@dataclass(frozen=True, slots=True)
class _Written:
    """What a graph or a function is once each call of a function is written out."""

    nodes: int
    values: int
    size: int
    depth: int


class _Walk:
    """One walk through a file."""

    def __init__(self, data: _Buffer, name: str) -> None:
        self._data = data
        self._name = name
        self._nodes = 0
        self._fields = 0
        self._calls: defaultdict[int, Counter[_Call]] = defaultdict(Counter)
        self._bodies: dict[_Call, int] = {}
        self._depths: defaultdict[int, int] = defaultdict(int)
        self._sizes: defaultdict[int, int] = defaultdict(int)
        self._values: defaultdict[int, int] = defaultdict(int)
        self._graphs = 0
        self._given_much: set[_Call] = set()

    def check(self) -> None:
        if len(self._data) > MAX_BYTES:
            raise self._too_large(f"has more than {MAX_BYTES} bytes")
        # Not by recursion: how deep messages lie in each other is for the file to say.
        ways = [self._inside("model", _MAIN, len(self._data), 0, _MAIN)]
        while ways:
            message = next(ways[-1], None)
            if message is None:
                ways.pop()
            else:
                ways.append(self._inside(*message))
        if sum(self._values.values()) > MAX_VALUES:
            raise self._too_large(f"has more than {MAX_VALUES} tensors and outputs of nodes")
        called = {call for calls in self._calls.values() for call in calls}
        unknown = {call for call in called if call[1] not in _DOMAINS} - self._bodies.keys()
        if unknown:
            operator, domain = min(unknown)
            raise PackError(
                "PACK_GRAPH_OPERATOR_UNKNOWN",
                f"{self._name} needs the operator {operator[:100]!r} of {domain[:100]!r}, which a library would have "
                "to bring; packs may use those of ONNX and ONNX Runtime",
                {"operator": operator[:100], "domain": domain[:100]},
            )
        if self._given_much & self._bodies.keys():
            raise self._invalid(f"gives a graph, or more than {MAX_GIVEN_BYTES} bytes, to a function")
        self._check_written_out()

    def _check_written_out(self) -> None:
        """Measure what there is once each call of a function is its nodes: of twenty functions, millions."""
        written: dict[int, _Written] = {}
        under_way: set[int] = set()
        ways = [_MAIN]
        while ways:
            body = ways[-1]
            if body in written:
                ways.pop()
                continue
            missing = {other for _, other in self._called_in(body) if other not in written}
            if not missing:
                ways.pop()
                under_way.discard(body)
                written[body] = self._written_out(body, written)
                continue
            under_way.add(body)
            if missing & under_way:
                raise self._invalid("has a function that calls itself")
            ways.extend(missing)

    def _called_in(self, body: int) -> list[tuple[int, int]]:
        """How often the graph or a function calls each function, and which."""
        return [(times, self._bodies[call]) for call, times in self._calls[body].items() if call in self._bodies]

    def _written_out(self, body: int, written: dict[int, _Written]) -> _Written:
        """Measure the graph or a function; what it calls has been measured."""
        inside = [(times, written[other]) for times, other in self._called_in(body)]
        whole = _Written(
            self._calls[body].total() + sum(times * other.nodes for times, other in inside),
            self._values[body] + sum(times * other.values for times, other in inside),
            self._sizes[body] + sum(times * other.size for times, other in inside),
            self._depths[body] + max((1 + other.depth for _, other in inside), default=0),
        )
        if whole.nodes > MAX_NODES:
            raise self._too_large(f"has more than {MAX_NODES} nodes where its functions are written out")
        if whole.values > MAX_VALUES:
            raise self._too_large(f"has more than {MAX_VALUES} values where its functions are written out")
        if whole.size > MAX_BYTES:
            raise self._too_large(f"has more than {MAX_BYTES} bytes where its functions are written out")
        if whole.depth > MAX_WRITTEN_DEPTH:
            raise self._too_large(f"has graphs and functions inside each other more than {MAX_WRITTEN_DEPTH} deep")
        return whole

    def _inside(self, kind: str, start: int, end: int, depth: int, body: int) -> Iterator[_Message]:
        """The messages in a message that are to be looked at; the message itself is."""
        depth, body = self._enter(kind, start, end, depth, body)
        inside, texts, dims, seen = _INSIDE[kind], {0: ""}, list[int](), set[int]()
        gives_much = False
        for number, wire, first, last in self._walked(start, end):
            if kind == "tensor":
                self._check_place(number, first)
            if number == _DIMS.get(kind):
                dims.extend([first] if wire == _VARINT else self._packed(first, last))
                self._check_rank(dims)
            elif wire == _BYTES and number in inside:
                self._check_once(kind, number, seen)
                before = self._graphs
                yield inside[number], first, last, depth, body
                gives_much |= self._is_much(inside[number], last - first, before)
            elif wire == _BYTES and number in _NAME_AND_DOMAIN.get(kind, ()):
                texts[number] = self._name_at(first, last)
            elif kind == "node" and number == _NODE_OUTPUT:
                self._values[body] += 1
        if kind in _NAME_AND_DOMAIN:
            name, domain = (texts.get(number, "") for number in _NAME_AND_DOMAIN[kind])
            self._note(kind, body, (name, "" if domain == "ai.onnx" else domain), gives_much=gives_much)
        elif kind in _DIMS:
            self._measure(kind, dims, end - start)

    def _enter(self, kind: str, start: int, end: int, depth: int, body: int) -> tuple[int, int]:
        """Note that a message begins; returns how deep in graphs its parts are, and what is written out with them."""
        if kind == "function":
            body = start
            self._sizes[body] = end - start
        elif kind == "graph":
            depth += 1
            if depth > MAX_DEPTH:
                raise self._too_large(f"has graphs inside graphs more than {MAX_DEPTH} deep")
            self._depths[body] = max(self._depths[body], depth)
            self._graphs += 1
        elif kind == "tensor":
            self._values[body] += 1
        return depth, body

    def _is_much(self, kind: str, size: int, graphs_before: int) -> bool:
        """Tell of a part that was looked at whether it is an attribute that is large, or holds a graph."""
        return kind == "attribute" and (size > MAX_GIVEN_BYTES or self._graphs > graphs_before)

    def _check_once(self, kind: str, number: int, seen: set[int]) -> None:
        if number in seen and number in _ONCE.get(kind, ()):
            raise self._invalid(f"has a part in several pieces, of which a {kind} has one")
        seen.add(number)

    def _name_at(self, start: int, end: int) -> str:
        if end - start > MAX_NAME_BYTES:
            raise self._too_large(f"has a name of more than {MAX_NAME_BYTES} bytes")
        return self._data[start:end].decode("utf-8", "replace")

    def _note(self, kind: str, body: int, call: _Call, *, gives_much: bool) -> None:
        if gives_much:
            self._given_much.add(call)
        if kind == "function":
            # Where several have one name, any of them may be meant: what all of them call counts.
            first = self._bodies.setdefault(call, body)
            if first != body:
                self._calls[first] += self._calls.pop(body, Counter())
                self._sizes[first] += self._sizes.pop(body, 0)
                self._values[first] += self._values.pop(body, 0)
                self._depths[first] = max(self._depths[first], self._depths.pop(body, 0))
        else:
            self._calls[body][call] += 1
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._too_large(f"has more than {MAX_NODES} nodes and functions")

    def _check_rank(self, dims: list[int]) -> None:
        if len(dims) > MAX_RANK:
            raise self._too_large(f"has a tensor of more than {MAX_RANK} dimensions")

    def _measure(self, kind: str, dims: list[int], size: int) -> None:
        elements = math.prod(dims)
        if kind == "sparse" and elements > MAX_SPARSE_ELEMENTS:
            raise self._too_large(f"has a sparse tensor of more than {MAX_SPARSE_ELEMENTS} elements")
        # Whoever believes the shape first makes room for it.
        if kind == "tensor" and dims and elements > _ELEMENTS_A_BYTE * size:
            raise self._invalid(f"has a tensor of {elements} elements in {size} bytes")

    def _packed(self, start: int, end: int) -> Iterator[int]:
        if end - start > 10 * MAX_RANK:
            raise self._too_large(f"has a tensor of more than {MAX_RANK} dimensions")
        while start < end:
            self._count_field()
            value, start = self._varint(start, end)
            yield value

    def _walked(self, start: int, end: int) -> Iterator[_Field]:
        """The fields of a message: number, kind, and its value, or where its bytes begin and end."""
        at = start
        while at < end:
            self._count_field()
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if not number:
                raise self._invalid("is no ONNX graph")
            if wire == _VARINT:
                value, at = self._varint(at, end)
                yield number, wire, value, at
                continue
            if wire == _BYTES:
                length, at = self._varint(at, end)
            elif wire in (_FIXED32, _FIXED64):
                length = 4 if wire == _FIXED32 else 8
            else:
                raise self._invalid("is no protobuf of ONNX")
            if length > end - at:
                raise self._invalid("is cut off, or no ONNX graph")
            yield number, wire, at, at + length
            at += length

    def _count_field(self) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise self._too_large(f"has more than {MAX_FIELDS} parts")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        raise self._invalid("is cut off, or no ONNX graph")

    def _check_place(self, number: int, value: int) -> None:
        if number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value):
            raise PackError(
                "PACK_GRAPH_EXTERNAL_DATA",
                f"{self._name} has weights outside its own file; a pack holds them inside (networks with a file of "
                "weights beside them are taken in by `lensmith base-models import`)",
            )

    def _too_large(self, what: str) -> PackError:
        return PackError("PACK_GRAPH_TOO_LARGE", f"{self._name} {what}")

    def _invalid(self, what: str) -> PackError:
        return PackError("PACK_GRAPH_INVALID", f"{self._name} {what}")
