"""An app moves to a better network although the parts that do the work are killed on the way."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lensmith.types import ModelUpgradeOutcome, UpgradeState
from tests.chaos.killing import kill_part
from tests.load.feed import feed_of
from tests.platform_process import PlatformProcess, platform_process
from tests.polling import until
from tests.upgrade_load import BETTER, MODEL, AppInUse, app_in_use, photos_of

pytestmark = [pytest.mark.xdist_group("upgrade"), pytest.mark.timeout(900)]

KNOWN = 25


@pytest.fixture(scope="module")
def upgradable(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[PlatformProcess]:
    """A platform with a better network; work that a killed process had taken is taken again soon."""
    settings = {"LENSMITH_DATASET_BACKFILL_BATCH": "8", "LENSMITH_DATASET_BACKFILL_LEASE_SECONDS": "5"}
    with platform_process(tmp_path_factory.mktemp("kills"), **settings) as running:
        running.cli("base-models", "import", str(shared / "models" / BETTER), "--yes")
        yield running


async def test_an_app_moves_when_every_part_that_works_on_it_is_killed_once(
    upgradable: PlatformProcess, shared: Path
) -> None:
    async with app_in_use(upgradable, "killed", photos_of(shared, KNOWN)) as app:
        started = await app.client.upgrades.start()
        async with _seen(app, started.number) as states:
            await until(lambda: _some_are_embedded(app, started.number), seconds=120)
            await kill_part(upgradable, "dataset")
            await kill_part(upgradable, "registry")
            await until(lambda: _is_past(app, started.number, UpgradeState.EMBEDDING), seconds=240)
            await kill_part(upgradable, "trainer")
            await kill_part(upgradable, "registry")
            done = await app.client.upgrades.wait(started.number)
        assert done.state is UpgradeState.DONE, (done.error, done.message)
        assert {model.model: model.outcome for model in done.models} == {
            MODEL: ModelUpgradeOutcome.UPGRADED,
            "pinned": ModelUpgradeOutcome.KEPT,
        }
        assert UpgradeState.FAILED not in states
        answer = await app.client.predict(MODEL, app.photos.asked)
        assert answer.model_version.endswith(f"/versions/{done.models[1].to_version}")
        space = await anext(each.space async for each in app.client.base_models.list() if each.id == BETTER)
        async with feed_of(upgradable, "killed", space) as feed:
            await feed.read()
        assert len(feed.inputs) == len(app.photos.known)
        assert all(item.vector for item in feed.inputs.values())


@asynccontextmanager
async def _seen(app: AppInUse, number: int) -> AsyncIterator[set[UpgradeState]]:
    """The states that a watch shows, which outlives the parts that it watches."""
    states: set[UpgradeState] = set()

    async def watch() -> None:
        async for upgrade in app.client.upgrades.watch(number):
            states.add(upgrade.state)

    watching = asyncio.create_task(watch())
    try:
        yield states
        await watching
    finally:
        watching.cancel()


async def _some_are_embedded(app: AppInUse, number: int) -> bool:
    return (await app.client.upgrades.get(number)).embedded_input_count > 0


async def _is_past(app: AppInUse, number: int, state: UpgradeState) -> bool:
    return (await app.client.upgrades.get(number)).state is not state
