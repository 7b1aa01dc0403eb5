"""Inputs laid out side by side for a stream of training data: of very many, one by one takes three times as long."""

from collections.abc import Sequence

from lensmith_api.internal.v1.training_data_service_pb2 import CompleteInputs
from lensmith_dataset.converters import training_label_to_proto
from lensmith_dataset.store.labels import Label
from lensmith_dataset.store.training_data import TrainingState
from lensmith_dataset.vectors import float16_from_halfvecs


def lay_out(states: Sequence[TrainingState], complete: CompleteInputs) -> list[TrainingState]:
    """Write the states of inputs that have a vector and labels into an empty message.

    Returns:
        The others, and those whose vector has another length than the first one's.
    """
    length = next((len(state.vector) for state in states if state.labels and state.vector), 0)
    laid: list[TrainingState] = []
    others: list[TrainingState] = []
    for state in states:
        fits = state.labels and state.vector and len(state.vector) == length
        (laid if fits else others).append(state)
    if not laid:
        return others
    complete.input_uids.extend([str(state.uid) for state in laid])
    complete.sha256s = b"".join([state.sha256 for state in laid])
    complete.tests.extend([place for place, state in enumerate(laid) if state.test])
    complete.vectors = float16_from_halfvecs([state.vector for state in laid])
    sets: dict[tuple[Label, ...], int] = {}
    complete.labels.extend([sets.setdefault(tuple(state.labels), len(sets)) for state in laid])
    for labels in sets:
        complete.label_sets.add().labels.extend(map(training_label_to_proto, labels))
    return others
