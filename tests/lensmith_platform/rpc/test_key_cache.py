"""A key works as long as it should and not a second longer, whoever is away."""

import asyncio
import socket
from datetime import timedelta

import nats
import pytest
import structlog

from lensmith_api.internal.v1.events_pb2 import Revocation
from lensmith_platform.errors import DependencyUnavailableError, NotFoundError, UnauthenticatedError
from lensmith_platform.key_cache import REVOCATIONS_SUBJECT, Authenticator
from lensmith_platform.principal import AppRef
from lensmith_platform.revocations import RevocationListener
from lensmith_platform.service_auth import TokenVerifier


@pytest.fixture
def authenticator(tmp_path, keys, clock):
    return Authenticator(keys, TokenVerifier(tmp_path, "inference", clock=clock), clock=clock)


@pytest.fixture
def beat(authenticator, keys):
    """Auth's broadcast: a heartbeat, or a revocation."""

    def send(secret=None, number=None):
        from hashlib import sha256

        authenticator.on_broadcast(
            Revocation(
                number=keys.number if number is None else number,
                secret_sha256=sha256(secret.encode()).digest() if secret else b"",
            ).SerializeToString()
        )

    return send


@pytest.mark.parametrize("header", ["Key secret", "key secret", "KEY  secret ", "Bearer secret", "bearer secret"])
async def test_key_is_known_when_its_scheme_is_written_in_any_case(authenticator, keys, world, header):
    keys.add("secret", world.trash, ["Inputs:Add"])
    principal = await authenticator.authenticate(header)
    assert principal.app == world.trash
    assert principal.scopes == {"Inputs:Add", "Inputs:Get"}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "CREDENTIALS_MISSING"),
        ("", "CREDENTIALS_MISSING"),
        ("secret", "CREDENTIALS_MALFORMED"),
        ("Key", "CREDENTIALS_MALFORMED"),
        ("Key ", "CREDENTIALS_MALFORMED"),
        ("Basic c2VjcmV0", "CREDENTIALS_MALFORMED"),
        ("Key two words", "CREDENTIALS_MALFORMED"),
        ("Key " + "x" * 513, "CREDENTIALS_MALFORMED"),
        ("Key other", "KEY_UNKNOWN"),
        ("Service not.a.token", "TOKEN_INVALID"),
    ],
)
async def test_reason_is_told_when_credentials_are_refused(authenticator, header, reason):
    with pytest.raises(UnauthenticatedError) as caught:
        await authenticator.authenticate(header)
    assert caught.value.reason == reason
    assert "other" not in caught.value.message


async def test_auth_is_asked_once_when_heartbeats_arrive(authenticator, keys, world, clock, beat):
    keys.add("secret", world.trash)
    beat()
    for _ in range(20):
        await authenticator.authenticate("Key secret")
        clock.move(0.25)
        beat()
    assert keys.asked == 1


async def test_auth_is_asked_every_time_when_heartbeats_stop(authenticator, keys, world, clock, beat):
    keys.add("secret", world.trash)
    beat()
    await authenticator.authenticate("Key secret")
    clock.move(0.7)
    await authenticator.authenticate("Key secret")
    assert keys.asked == 1
    clock.move(0.1)
    await authenticator.authenticate("Key secret")
    await authenticator.authenticate("Key secret")
    assert keys.asked == 3


async def test_auth_is_asked_every_time_when_no_heartbeat_was_ever_heard(authenticator, keys, world):
    keys.add("secret", world.trash)
    await authenticator.authenticate("Key secret")
    keys.revoke("secret")
    with pytest.raises(UnauthenticatedError, match="KEY_UNKNOWN"):
        await authenticator.authenticate("Key secret")


async def test_key_works_for_a_minute_when_heartbeats_and_auth_are_away(authenticator, keys, world, clock, beat):
    keys.add("secret", world.trash)
    beat()
    await authenticator.authenticate("Key secret")
    keys.away = True
    clock.move(59)
    assert (await authenticator.authenticate("Key secret")).app == world.trash
    clock.move(1)
    with pytest.raises(DependencyUnavailableError, match="AUTH_UNAVAILABLE"):
        await authenticator.authenticate("Key secret")


async def test_unknown_key_is_refused_when_auth_is_away(authenticator, keys):
    keys.away = True
    with pytest.raises(DependencyUnavailableError, match="AUTH_UNAVAILABLE"):
        await authenticator.authenticate("Key secret")


async def test_key_is_checked_again_when_a_minute_has_passed(authenticator, keys, world, clock, beat):
    keys.add("secret", world.trash)
    beat()
    await authenticator.authenticate("Key secret")
    clock.move(60)
    beat()
    await authenticator.authenticate("Key secret")
    assert keys.asked == 2


async def test_key_stops_at_once_when_its_revocation_is_heard(authenticator, keys, world, beat):
    keys.add("secret", world.trash)
    keys.add("other", world.trash)
    beat()
    await authenticator.authenticate("Key secret")
    await authenticator.authenticate("Key other")
    keys.revoke("secret")
    beat("secret")
    with pytest.raises(UnauthenticatedError, match="KEY_UNKNOWN"):
        await authenticator.authenticate("Key secret")
    asked = keys.asked
    await authenticator.authenticate("Key other")
    assert keys.asked == asked


@pytest.mark.parametrize("jump", [1, 2, -1])
async def test_everything_is_forgotten_when_numbers_jump(authenticator, keys, world, beat, jump):
    keys.number = 5
    keys.add("secret", world.trash)
    beat()
    await authenticator.authenticate("Key secret")
    keys.number += jump
    beat()
    await authenticator.authenticate("Key secret")
    assert keys.asked == 2


async def test_revocation_is_missed_by_nobody_when_one_before_it_was_lost(authenticator, keys, world, beat):
    keys.add("lost", world.trash)
    keys.add("heard", world.trash)
    beat()
    await authenticator.authenticate("Key lost")
    keys.revoke("lost")
    keys.revoke("heard")
    beat("heard")
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate("Key lost")


async def test_answer_is_not_kept_when_a_revocation_overtakes_it(authenticator, keys, world, beat):
    keys.add("secret", world.trash)
    beat()
    asked, go_on = asyncio.Event(), asyncio.Event()
    resolve = keys.resolve_key

    class Slow:
        async def resolve_key(self, secret_sha256):
            answer = await resolve(secret_sha256)
            asked.set()
            await go_on.wait()
            return answer

        resolve_app = keys.resolve_app

    authenticator.source = Slow()
    waiting = asyncio.create_task(authenticator.authenticate("Key secret"))
    await asked.wait()
    keys.revoke("secret")
    beat("secret")
    with_old_answer = asyncio.create_task(authenticator.authenticate("Key secret"))
    go_on.set()
    await waiting
    for late in (with_old_answer, asyncio.create_task(authenticator.authenticate("Key secret"))):
        with pytest.raises(UnauthenticatedError, match="KEY_UNKNOWN"):
            await late


async def test_one_question_is_asked_when_many_calls_come_at_once(authenticator, keys, world):
    keys.add("secret", world.trash)
    principals = await asyncio.gather(*(authenticator.authenticate("Key secret") for _ in range(50)))
    assert keys.asked == 1
    assert len(set(principals)) == 1


async def test_others_get_their_answer_when_the_first_caller_leaves(authenticator, keys, world):
    keys.add("secret", world.trash)
    callers = [asyncio.create_task(authenticator.authenticate("Key secret")) for _ in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    assert (await callers[1]).app == (await callers[2]).app == world.trash


async def test_key_expires_when_its_time_comes_though_it_is_cached(authenticator, keys, world, clock, beat):
    keys.add("secret", world.trash, expire_time=clock.now() + timedelta(seconds=10))
    beat()
    await authenticator.authenticate("Key secret")
    clock.move(10)
    beat()
    with pytest.raises(UnauthenticatedError) as caught:
        await authenticator.authenticate("Key secret")
    assert caught.value.reason == "KEY_EXPIRED"
    keys.away = True
    with pytest.raises(DependencyUnavailableError):
        await authenticator.authenticate("Key secret")


async def test_app_is_found_anew_when_one_of_its_name_was_made_again(authenticator, keys, world, clock, beat):
    beat()
    assert await authenticator.resolve_app("trash") == world.trash
    keys.apps["trash"] = AppRef(99, "u", "trash")
    assert await authenticator.resolve_app("trash") == world.trash
    clock.move(1)
    assert (await authenticator.resolve_app("trash")).app_id == 99
    keys.away = True
    clock.move(30)
    assert (await authenticator.resolve_app("trash")).app_id == 99
    clock.move(60)
    with pytest.raises(DependencyUnavailableError):
        await authenticator.resolve_app("trash")
    keys.away = False
    del keys.apps["trash"]
    with pytest.raises(NotFoundError):
        await authenticator.resolve_app("trash")


async def test_nonsense_is_no_sign_of_life_when_it_arrives_as_a_broadcast(authenticator):
    authenticator.on_broadcast(b"\xff\xff\xff")
    assert not authenticator.hears_revocations


async def test_listener_goes_on_and_stops_when_nats_is_away(until):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"nats://127.0.0.1:{free.getsockname()[1]}"
    with structlog.testing.capture_logs() as lines:
        listener = asyncio.create_task(RevocationListener(url, lambda data: None, service="inference").run())
        await until(lambda: len(lines) >= 2)
        assert not listener.done()
        listener.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listener


async def test_revocation_reaches_a_service_when_it_is_broadcast_over_nats(nats_url, keys, world, until):
    keys.add("secret", world.trash)
    authenticator = Authenticator(keys, TokenVerifier(world.folder, "inference"))
    listener = asyncio.create_task(RevocationListener(nats_url, authenticator.on_broadcast, service="inference").run())
    client = await nats.connect(nats_url)

    async def beat():
        while True:
            await client.publish(REVOCATIONS_SUBJECT, Revocation(number=keys.number).SerializeToString())
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(beat())
    try:
        await until(lambda: authenticator.hears_revocations)
        await authenticator.authenticate("Key secret")
        keys.revoke("secret")

        async def refused():
            try:
                await authenticator.authenticate("Key secret")
            except UnauthenticatedError:
                return True
            return False

        await until(refused)
        beating.cancel()
        await until(lambda: not authenticator.hears_revocations)
    finally:
        beating.cancel()
        listener.cancel()
        await asyncio.gather(beating, listener, return_exceptions=True)
        await client.close()
