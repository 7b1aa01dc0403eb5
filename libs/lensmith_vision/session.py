"""ONNX Runtime sessions with the settings that suit serving: few threads, modest memory, silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import PackError
from lensmith_vision.graph_file import check_graph_file

if TYPE_CHECKING:  # loading it takes 26 MB, which who only reads packs does without
    import onnxruntime as ort

__all__ = ["Session", "open_graph", "open_session"]

MOST_SECONDS = 120.0
"""Of one run, of a few pictures: no network that is of any use takes so long."""


class ValueInfo(Protocol):
    """Name, element type and shape of an input or output of a graph."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class Session(Protocol):
    """The part of an ONNX Runtime session that is used here."""

    def run(
        self, output_names: Sequence[str], feed: Mapping[str, npt.NDArray[np.uint8] | npt.NDArray[np.float32]]
    ) -> list[npt.NDArray[np.float32]]:
        """Compute the named outputs only."""
        ...

    def get_inputs(self) -> Sequence[ValueInfo]:
        """Describe the inputs."""
        ...

    def get_outputs(self) -> Sequence[ValueInfo]:
        """Describe the outputs."""
        ...


def open_session(model: Path, threads: int, *, most_seconds: float = MOST_SECONDS) -> Session:
    """Load a graph for the CPU.

    Args:
        model: The ONNX file.
        threads: Threads of one product; 1 runs in the calling thread.
        most_seconds: What one run may take: graphs may hold loops, and nobody can tell beforehand which of them end.

    Raises:
        PackError: The file is no graph that ONNX Runtime can run, or none that :func:`check_graph_file` lets in; and
            whenever a run is stopped (PACK_GRAPH_TOO_SLOW).
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that spin between products would steal the cores from decoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return _Bounded(open_graph(model, options), model.name, most_seconds)


class _Bounded:
    """A session whose runs end."""

    def __init__(self, session: ort.InferenceSession, name: str, most_seconds: float) -> None:
        self._session = session
        self._name = name
        self._most_seconds = most_seconds
        self._watch = _Watch(most_seconds)

    def run(
        self, output_names: Sequence[str], feed: Mapping[str, npt.NDArray[np.uint8] | npt.NDArray[np.float32]]
    ) -> list[npt.NDArray[np.float32]]:
        with self._watch.over_a_run() as options:
            try:
                return cast(list[npt.NDArray[np.float32]], self._session.run(output_names, feed, options))
            except Exception as error:
                if not options.terminate:
                    raise
                raise PackError(
                    "PACK_GRAPH_TOO_SLOW",
                    f"{self._name} was stopped: one run took more than {self._most_seconds:g} s",
                    {"seconds": f"{self._most_seconds:g}"},
                ) from error

    def get_inputs(self) -> Sequence[ValueInfo]:
        return cast(Sequence[ValueInfo], self._session.get_inputs())

    def get_outputs(self) -> Sequence[ValueInfo]:
        return cast(Sequence[ValueInfo], self._session.get_outputs())


class _Watch:
    """Stops runs that take too long.

    One thread looks at all of them, and ends when it finds none: a timer for each run would be a thread for each, which
    on a busy machine takes longer to start than a small network to run.
    """

    def __init__(self, most_seconds: float) -> None:
        self._most_seconds = most_seconds
        self._pause = min(1.0, most_seconds / 4)
        self._lock = threading.Lock()
        self._ends: dict[ort.RunOptions, float] = {}
        self._looks = False

    @contextmanager
    def over_a_run(self) -> Iterator[ort.RunOptions]:
        """Give the options of one run, which is stopped when its time is over."""
        import onnxruntime as ort

        options = ort.RunOptions()
        with self._lock:
            if not self._looks:
                threading.Thread(target=self._look, name="session-watch", daemon=True).start()
                self._looks = True
            self._ends[options] = time.monotonic() + self._most_seconds
        try:
            yield options
        finally:
            with self._lock:
                del self._ends[options]

    def _look(self) -> None:
        while True:
            time.sleep(self._pause)
            with self._lock:
                if not self._ends:
                    self._looks = False
                    return
                now = time.monotonic()
                for options, end in self._ends.items():
                    if now >= end:
                        # Looked at before each node, those inside loops too.
                        options.terminate = True


def open_graph(model: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    """Have ONNX Runtime load a graph, silently, once its file was looked at.

    Raises:
        PackError: As `open_session`.
    """
    import onnxruntime as ort

    check_graph_file(model)
    options.log_severity_level = 3
    # ONNX Runtime has a format of its own beside ONNX, which nobody looked at.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    ort.disable_telemetry_events()
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise PackError("PACK_GRAPH_INVALID", f"{model.name} is no graph that ONNX Runtime can run: {error}") from error
