"""What becomes of a model in an upgrade, worked out from how it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lensmith_registry.model_upgrade_store import ModelUpgradeRow, Standing
from lensmith_registry.version_store import Json

__all__ = ["CLEARLY_WORSE", "begin", "judge", "story"]

CLEARLY_WORSE = 0.02
"""A version whose figure is lower by more than this is not put into production unasked."""

_FIGURES = {"multi_class": "accuracy", "multi_label": "macro_f1", "regression": "r2"}
_MOST_ROUNDS = 5
"""How often a model is trained anew because its owner trained it meanwhile, before the switch goes on without."""


def begin(standing: Standing) -> ModelUpgradeRow:
    """Return the beginning of a model in an upgrade."""
    figure = _FIGURES[standing.kind]
    before = _figure(standing.summary, figure)
    return ModelUpgradeRow(
        standing.model_id, standing.model, "WAITING", standing.production_version, 0, 0, figure, before, None, ""
    )


def judge(model: ModelUpgradeRow, standing: Standing, space: str, *, force: bool) -> ModelUpgradeRow:
    """Say what becomes of a model as it stands now.

    Args:
        model: What was said before.
        standing: How it stands.
        space: The new space.
        force: Whether it is switched even if it became clearly worse.

    Returns:
        The model: TRAINED or KEPT when nothing is left to wait for.
    """
    if standing.production_space == space:
        # Somebody has put a version of the new base model into production already.
        return replace(model, outcome="TRAINED", to_version=standing.production_version, reason="")
    before = _figure(standing.summary, model.figure)
    model = replace(model, from_version=standing.production_version, before=before)
    if standing.pinned:
        return replace(model, outcome="KEPT", reason=f"version {standing.production_version} is pinned")
    if model.to_version == 0:
        # What preflight refused stays refused; who was pinned is pinned no more.
        return model if model.outcome == "KEPT" and model.rounds else replace(model, outcome="WAITING", reason="")
    if model.rounds < _MOST_ROUNDS:
        # Its owner trained it on newer data, or is about to: that must not get lost by the switch.
        if standing.overtaken:
            return replace(model, outcome="WAITING", after=None, reason="")
        if standing.racing:
            return replace(model, outcome="TRAINING", reason="")
    return _judge_trained(model, standing, force=force)


def _judge_trained(model: ModelUpgradeRow, standing: Standing, *, force: bool) -> ModelUpgradeRow:
    if standing.to_state in ("QUEUED", "TRAINING"):
        return replace(model, outcome="TRAINING", reason="")
    if standing.to_state != "READY":
        return replace(model, outcome="KEPT", reason=_failure(model.to_version, standing))
    after = _figure(standing.to_summary, model.figure)
    model = replace(model, outcome="TRAINED", after=after, reason="")
    if not force and model.before is not None and after is not None and after < model.before - CLEARLY_WORSE:
        reason = f"version {model.to_version} is worse: {model.figure} {after:.3f} instead of {model.before:.3f}"
        return replace(model, outcome="KEPT", reason=reason)
    return model


def story(models: Sequence[ModelUpgradeRow], base_model: str) -> str:
    """Tell people what a switch did."""
    upgraded = [model for model in models if model.outcome in ("TRAINED", "UPGRADED")]
    kept = [f"{model.model} ({model.reason})" for model in models if model.outcome == "KEPT"]
    if upgraded:
        text = f"your models were upgraded to {base_model}: {', '.join(map(_change, upgraded))}"
    else:
        text = f"your pictures were moved to {base_model}"
    return f"{text}; kept as before: {', '.join(kept)}" if kept else text


def _change(model: ModelUpgradeRow) -> str:
    if model.before is None or model.after is None:
        return model.model
    return f"{model.model} {model.before:.2f} → {model.after:.2f}"


def _failure(number: int, standing: Standing) -> str:
    if standing.to_state == "FAILED" and isinstance(standing.to_error, dict):
        return f"version {number} failed: {standing.to_error.get('message', '')}"
    return f"version {number} was {'cancelled' if standing.to_state == 'CANCELLED' else 'deleted'}"


def _figure(summary: Json, name: str) -> float | None:
    value = summary.get(name) if isinstance(summary, dict) else None
    return float(value) if isinstance(value, int | float) else None
