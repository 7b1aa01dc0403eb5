"""Moving an app to a better base network while it is used: nobody notices but by better answers."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import pytest

import lensmith
from lensmith.types import ModelUpgradeOutcome, UpgradeState
from tests.load.feed import feed_of
from tests.platform_process import PlatformProcess, platform_process
from tests.polling import until
from tests.upgrade_load import BASE_MODEL, BETTER, MODEL, AppInUse, app_in_use, photos_of

pytestmark = [pytest.mark.xdist_group("upgrade"), pytest.mark.timeout(900)]

KNOWN, CALLERS = 30, 3
"""Pictures of each concept before the move, and who predicts meanwhile."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[PlatformProcess]:
    """A platform with a better network than the one that apps of these tests are on."""
    with platform_process(tmp_path_factory.mktemp("upgrade")) as running:
        running.cli("base-models", "import", str(shared / "models" / BETTER), "--yes")
        yield running


async def test_nobody_notices_a_move_to_a_better_network_when_the_app_is_in_use(
    platform: PlatformProcess, shared: Path, record_property: Callable[[str, object], None]
) -> None:
    async with app_in_use(platform, "busy", photos_of(shared, KNOWN)) as app:
        old = f"apps/busy/models/{MODEL}/versions/1"
        before = await app.client.models.get_version(MODEL, 1)
        assert before.base_model == BASE_MODEL
        known_scores = await app.scores(MODEL)
        pinned_scores = await app.scores("pinned")
        assert "busy" in platform.cli("base-models", "upgrade-apps", "--json").stdout

        async with app.used(CALLERS):
            done = await _moved(app)
            new = f"apps/busy/models/{MODEL}/versions/{done.models[1].to_version}"
            assert done.state is UpgradeState.DONE, (done.error, done.message)
            assert done.switched_at is not None
            switched_at = done.switched_at
            await until(lambda: _answered(app, new), seconds=60)
            await until(lambda: app.added_around(switched_at), seconds=60)
        assert done.message.startswith(f"your models were upgraded to {BETTER}: {MODEL} ")
        pinned, moved = done.models
        assert (pinned.outcome, pinned.reason) == (ModelUpgradeOutcome.KEPT, "version 1 is pinned")
        assert moved.outcome is ModelUpgradeOutcome.UPGRADED
        assert moved.before is not None
        assert moved.after is not None
        assert moved.after > moved.before
        _assert_nobody_noticed(app, old, new)

        await _assert_everything_is_in_the_new_space(platform, app)
        # What was learnt on the network before is asked about that network's vectors, and about no other's.
        np.testing.assert_allclose(await app.scores(MODEL, version=1), known_scores, atol=1e-5)
        np.testing.assert_allclose(await app.scores("pinned"), pinned_scores, atol=1e-5)
        with platform.operator() as operator, pytest.raises(lensmith.PreconditionError, match="uses the base model"):
            operator.base_models.delete(BASE_MODEL)
        later = await app.train()
        assert (later.base_model, later.production) == (BETTER, True)
        assert later.input_count == (await app.client.inputs.counts()).ready
        assert (await app.client.upgrades.check()).upgradable is False
        seconds = sorted(second for answers in app.answers for second in answers.seconds)
        record_property(
            "measured",
            f"{len(seconds)} predictions during the move, none failed (median {median(seconds):.2f} s, longest "
            f"{seconds[-1]:.2f} s); {MODEL} {moved.before:.3f} -> {moved.after:.3f}; {len(app.added)} pictures added",
        )


async def _moved(app: AppInUse) -> lensmith.types.Upgrade:
    """The upgrade that two asked for at once, when it has ended."""
    started = await asyncio.gather(*(app.client.upgrades.start() for _ in range(2)), return_exceptions=True)
    [refused] = [one for one in started if isinstance(one, lensmith.LensmithError)]
    assert refused.reason == "UPGRADE_RUNNING"
    [upgrade] = [one for one in started if isinstance(one, lensmith.types.Upgrade)]
    return await app.client.upgrades.wait(upgrade.number)


async def _answered(app: AppInUse, version: str) -> bool:
    return all(answers.versions[-1] == version for answers in app.answers)


def _assert_nobody_noticed(app: AppInUse, old: str, new: str) -> None:
    for answers in app.answers:
        assert answers.errors == []
        assert answers.in_order == [old, new]


async def _assert_everything_is_in_the_new_space(platform: PlatformProcess, app: AppInUse) -> None:
    space = await anext(each.space async for each in app.client.base_models.list() if each.id == BETTER)
    expected = (await app.client.inputs.wait_until_ready(timeout=60)).ready
    assert expected >= len({item.uid for item in app.added}) + len(app.photos.known)
    async with feed_of(platform, app.client.app, space) as feed:

        async def all_have_vectors() -> bool:
            await feed.read()
            return len(feed.inputs) == expected and all(item.vector for item in feed.inputs.values())

        await until(all_have_vectors, seconds=60)
    assert (await app.client.embed(app.photos.asked)).space == space


def test_the_command_line_moves_an_app_when_nothing_was_trained_in_it(platform: PlatformProcess) -> None:
    made = json.loads(platform.cli("apps", "create", "idle", "--base-model", BASE_MODEL, "--json").stdout)
    moved = json.loads(platform.cli("apps", "upgrade", "--to", BETTER, "--watch", "--json").stdout)
    assert (moved["state"], moved["message"]) == ("done", f"your pictures were moved to {BETTER}")
    shown = platform.cli("apps", "upgrade", "--status").stdout
    assert f"from {BASE_MODEL} to {BETTER} is done" in shown
    refused = platform.cli("apps", "upgrade", check=False)
    assert refused.returncode == 1
    assert "UPGRADE_NOT_NEEDED" in refused.stderr

    rest = {"base_url": f"{platform.url}/v1/apps/idle", "headers": {"Authorization": f"Key {made['secret']}"}}
    with httpx.Client(**rest, timeout=60) as http:
        check = http.get("/upgrades:check").json()
        assert (check["baseModel"]["name"], check["upgradable"]) == (f"baseModels/{BETTER}", False)
        watched = [json.loads(line) for line in http.get("/upgrades/1:watch").text.splitlines()]
    assert [set(event) for event in watched] == [{"item"}, {"summary"}]
    assert watched[-1]["summary"]["upgrade"]["state"] == "UPGRADE_STATE_DONE"


def test_the_operator_moves_every_app_that_lags_behind(platform: PlatformProcess, shared: Path) -> None:
    made = json.loads(platform.cli("apps", "create", "lagging", "--base-model", BASE_MODEL, "--json").stdout)
    photo = next((shared / "datasets" / "trashnet" / "glass").iterdir())
    with lensmith.Client(platform.url, made["secret"], "lagging") as client:
        list(client.inputs.create([lensmith.NewInput(photo)]))
        client.inputs.wait_until_ready(timeout=60)
        rows = json.loads(platform.cli("base-models", "upgrade-apps", "--start", "--json").stdout)
        [row] = [row for row in rows if row["app"] == "lagging"]
        assert row["upgrade"] == "number 1 started"
        *_, done = client.upgrades.watch(1)
        assert (done.state, done.embedded_input_count) == (UpgradeState.DONE, 1)
        assert [upgrade.number for upgrade in client.upgrades.list()] == [1]
        assert not client.upgrades.check().upgradable
