"""What there is to test a model on: counted for preflight."""

from collections.abc import Sequence
from dataclasses import dataclass

from lensmith_platform.db.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class TestCount:
    """What an app has to test on: inputs kept for testing, and of those with a vector, how they are annotated."""

    inputs: int
    annotated: int
    positives: int
    numbers: int


async def count_tests(connection: Connection, app_id: int, space: str, concepts: Sequence[str] | None) -> TestCount:
    """Count the inputs that are kept for testing, and how many of them say something of concepts (None: of all)."""
    row = await connection.fetchrow(
        """
        SELECT count(*) AS inputs, count(*) FILTER (WHERE seen AND labels > 0) AS annotated,
               count(*) FILTER (WHERE seen AND positives > 0) AS positives,
               count(*) FILTER (WHERE seen AND numbers > 0) AS numbers
        FROM (
            SELECT EXISTS (SELECT FROM embeddings AS vector
                           WHERE vector.app_id = $1 AND vector.space = $2 AND vector.input_id = input.id) AS seen,
                   said.labels, said.positives, said.numbers
            FROM inputs AS input CROSS JOIN LATERAL (
                SELECT count(*) AS labels, count(*) FILTER (WHERE label.positive) AS positives,
                       count(label.number) AS numbers
                FROM annotations AS label WHERE label.app_id = $1 AND label.input_id = input.id
                    AND ($3::text[] IS NULL OR label.concept_id IN (
                        SELECT id FROM concepts WHERE app_id = $1 AND own_id = ANY($3)))
            ) AS said
            WHERE input.app_id = $1 AND input.test
        ) AS tested
        """,
        app_id,
        space,
        concepts,
    )
    return TestCount(**row)
