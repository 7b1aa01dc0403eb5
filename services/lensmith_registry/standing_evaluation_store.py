"""Evaluations that stand for later versions too: few pictures came to many, and no figure can have changed.

Such a version names the scores of the earlier one, which stay as long as any version names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import PreconditionError
from lensmith_registry.version_store import Json, VersionRow

__all__ = ["StandingEvaluation", "hold"]


@dataclass(frozen=True)
class StandingEvaluation:
    """What a version takes over from an earlier one.

    Attributes:
        out_of_fold: Key of the scores among the blobs.
        evaluation: As JSON.
    """

    out_of_fold: str
    evaluation: Json


async def hold(connection: Connection, row: VersionRow, uid: UUID, concepts: Sequence[str]) -> StandingEvaluation:
    """Return the evaluation of an earlier version of the same model, which is not deleted before the transaction ends.

    Raises:
        PreconditionError: EVALUATION_NOT_KEPT: it is gone, has no scores, is of other concepts, or was fine-tuned.
    """
    found = await connection.fetchrow(
        """SELECT out_of_fold, evaluation FROM model_versions
           WHERE app_id = $1 AND uid = $2 AND model_id = $3 AND number < $4 AND concepts = $5 AND out_of_fold <> ''
             AND completed_at IS NOT NULL AND deleted_at IS NULL AND network_space = ''
           FOR SHARE""",
        row.app_id,
        uid,
        row.model_id,
        row.number,
        list(concepts),
    )
    if found is None:
        raise PreconditionError("EVALUATION_NOT_KEPT", f"the evaluation that was to stand for {row.name} is gone")
    return StandingEvaluation(found["out_of_fold"], found["evaluation"])
