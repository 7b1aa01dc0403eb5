"""What the public model General saw in inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lensmith_platform.db.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class GeneralConcepts:
    """What one version of General saw in one input.

    Attributes:
        version: number of the version.
        synsets: numbers of the concepts in WordNet, by falling score.
        scores: their probabilities.
        predicted: whether each reached its threshold.
    """

    version: int
    synsets: Sequence[int]
    scores: Sequence[float]
    predicted: Sequence[bool]


async def store(connection: Connection, app_id: int, seen: Mapping[int, GeneralConcepts]) -> None:
    """Keep what was seen in locked inputs, by their number, instead of what was seen before."""
    await connection.executemany(
        """
        INSERT INTO general_concepts (app_id, input_id, version, synsets, scores, predicted)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (app_id, input_id) DO UPDATE SET version = EXCLUDED.version, synsets = EXCLUDED.synsets,
            scores = EXCLUDED.scores, predicted = EXCLUDED.predicted, created_at = now()
        """,
        [
            (app_id, input_id, one.version, one.synsets, one.scores, one.predicted)
            for input_id, one in sorted(seen.items())
        ],
    )


async def of_inputs(connection: Connection, app_id: int, ids: Sequence[int]) -> dict[int, GeneralConcepts]:
    """Return what was seen in inputs, by their number; those in which nobody looked are left out."""
    rows = await connection.fetch(
        """
        SELECT input_id, version, synsets, scores, predicted FROM general_concepts
        WHERE app_id = $1 AND input_id = ANY($2::bigint[])
        """,
        app_id,
        ids,
    )
    return {
        row["input_id"]: GeneralConcepts(row["version"], row["synsets"], row["scores"], row["predicted"])
        for row in rows
    }
