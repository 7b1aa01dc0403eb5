"""Asking from the command line: where a name leads, and what of General's answer is shown."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.rpc import code_pb2

import lensmith
from lensmith.cli.asking import Question, ask, most_special
from lensmith.types import ConceptScore
from tests.lensmith.server import Script, scripted_server
from tests.lensmith.test_client import refusal


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async with scripted_server() as running:
        yield running


async def _asked(script: Script, model: str, tmp_path: Path, pictures: int = 1) -> str:
    path = tmp_path / "picture.jpg"
    path.write_bytes(b"picture")

    def run() -> str:
        with lensmith.Client(script.url, "lsk_secret", "trash") as client:
            version, answers = ask(client, Question(model, 0, (), 0.0, 3), [str(path)] * pictures)
        assert len(answers) == pictures
        return version

    return await asyncio.to_thread(run)


async def test_own_model_answers_when_the_app_has_one(script: Script, tmp_path: Path) -> None:
    assert await _asked(script, "general", tmp_path) == "apps/trash/models/general/versions/1"


async def test_public_model_answers_when_the_app_has_none_of_that_name(script: Script, tmp_path: Path) -> None:
    script.failures = [refusal(code_pb2.NOT_FOUND, "MODEL_NOT_FOUND")]
    assert await _asked(script, "general", tmp_path, 70) == "apps/main/models/general/versions/1"
    assert script.calls["Predict"] == 1 + 3


async def test_first_refusal_is_told_when_no_public_model_has_the_name_either(script: Script, tmp_path: Path) -> None:
    script.failures = [refusal(code_pb2.NOT_FOUND, "MODEL_NOT_FOUND")] * 2
    with pytest.raises(lensmith.NotFoundError):
        await _asked(script, "generic", tmp_path)
    assert script.calls["Predict"] == 2


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        ("main/general", code_pb2.NOT_FOUND, "MODEL_NOT_FOUND"),
        ("sorter", code_pb2.NOT_FOUND, "APP_NOT_FOUND"),
        ("sorter", code_pb2.FAILED_PRECONDITION, "MODEL_HAS_NO_TRAINED_VERSION"),
    ],
)
async def test_nothing_else_is_asked_when_the_refusal_is_another(
    script: Script, tmp_path: Path, model: str, code: int, reason: str
) -> None:
    script.failures = [refusal(code, reason)]
    with pytest.raises(lensmith.LensmithError) as caught:
        await _asked(script, model, tmp_path)
    assert caught.value.reason == reason
    assert script.calls["Predict"] == 1


def test_what_is_special_comes_before_what_is_certain() -> None:
    said = [("entity", 1.0, True), ("animal", 0.9, True), ("dog", 0.6, True), ("cat", 0.3, False)]
    scores = [ConceptScore(concept=name, display_name=name, value=value, predicted=sure) for name, value, sure in said]
    assert [one.concept for one in most_special(scores, 2)] == ["dog", "animal"]
    assert [one.concept for one in most_special(scores, 0)] == ["dog", "animal", "entity"]
    assert most_special(scores[3:], 3) == ()
