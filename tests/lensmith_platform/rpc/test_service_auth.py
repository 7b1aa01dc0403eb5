"""Tokens between services prove who calls, for whom, about what, and for how long."""

import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lensmith_platform.errors import UnauthenticatedError
from lensmith_platform.principal import AppRef
from lensmith_platform.service_auth import (
    ServiceClaims,
    TokenSigner,
    TokenVerifier,
    app_of_outgoing_call,
    make_key_pair,
    service_call_app,
)
from lensmith_platform.settings import SettingsError


@pytest.fixture
def folder(tmp_path):
    for service in ("dataset", "trainer"):
        make_key_pair(service, tmp_path / "private" / f"{service}.pem", tmp_path / "public")
    return tmp_path


@pytest.fixture
def signer(folder, clock):
    return TokenSigner("dataset", folder / "private" / "dataset.pem", clock=clock)


@pytest.fixture
def verifier(folder, clock):
    return TokenVerifier(folder / "public", "inference", clock=clock)


def refused(verifier, token):
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.verify(token)
    assert caught.value.reason == "TOKEN_INVALID"
    return caught.value.message


def test_caller_and_app_are_known_when_a_token_is_good(signer, verifier):
    assert verifier.verify(signer.token("inference", 7)) == ServiceClaims("dataset", 7)
    assert verifier.verify(signer.token("inference")) == ServiceClaims("dataset", 0)


def test_token_is_reused_for_half_its_life_and_refused_after_it_when_time_passes(signer, verifier, clock):
    first = signer.token("inference")
    clock.move(29)
    assert signer.token("inference") == first
    clock.move(2)
    assert signer.token("inference") != first
    verifier.verify(first)
    clock.move(35)
    assert "expired" in refused(verifier, first)


def test_token_is_refused_when_it_is_meant_for_another_service(signer, verifier):
    assert "not meant for inference" in refused(verifier, signer.token("registry"))


def test_token_is_refused_when_it_comes_from_the_future(signer, verifier, clock):
    clock.move(30)
    token = signer.token("inference")
    clock.move(-30)
    assert "future" in refused(verifier, token)


def claims(clock, **changes):
    now = int(clock.now().timestamp())
    return {"iss": "dataset", "aud": "inference", "app": 0, "iat": now, "exp": now + 60, **changes}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": 10**10}, "lives longer"),
        ({"app": "7"}, "claim app"),
        ({"app": -1}, "claim app"),
        ({"app": True}, "claim app"),
        ({"exp": "soon"}, ""),
        ({"iss": "../private/dataset"}, "no name of a service"),
        ({"iss": "nobody"}, "no public key of nobody"),
        ({"iss": "trainer"}, "none of the keys"),
        ({"iss": 3}, ""),
    ],
)
def test_token_is_refused_when_a_claim_is_wrong(folder, verifier, clock, changes, why):
    private = (folder / "private" / "dataset.pem").read_bytes()
    raw = jwt.api_jws.encode(json.dumps(claims(clock, **changes)).encode(), private, algorithm="EdDSA")
    assert why in refused(verifier, raw)


def test_token_is_refused_when_a_claim_is_missing(folder, verifier, clock):
    private = (folder / "private" / "dataset.pem").read_bytes()
    for missing in ("exp", "iat", "aud"):
        content = claims(clock)
        del content[missing]
        refused(verifier, jwt.encode(content, private, algorithm="EdDSA"))


def test_token_is_refused_when_it_is_unsigned_or_signed_another_way(folder, verifier, clock):
    public = (folder / "public" / "dataset.pub").read_text()
    refused(verifier, jwt.encode(claims(clock), "", algorithm="none"))
    refused(verifier, jwt.encode(claims(clock), Ed25519PrivateKey.generate(), algorithm="EdDSA"))
    # The public key used as a shared secret: what a verifier that trusts the header would accept.
    header = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT"}').decode()
    body = jwt.utils.base64url_encode(json.dumps(claims(clock)).encode()).decode()
    mark = hmac.new(public.encode(), f"{header}.{body}".encode(), hashlib.sha256).digest()
    refused(verifier, f"{header}.{body}.{jwt.utils.base64url_encode(mark).decode()}")
    for nonsense in ("", "a", "a.b.c", "…", "x" * 100_000):
        refused(verifier, nonsense)


def test_both_keys_count_when_a_key_is_being_exchanged(folder, verifier, clock, tmp_path):
    old = TokenSigner("dataset", folder / "private" / "dataset.pem", clock=clock)
    make_key_pair("dataset", tmp_path / "new.pem", tmp_path / "elsewhere")
    new = TokenSigner("dataset", tmp_path / "new.pem", clock=clock)
    assert "none of the keys" in refused(verifier, new.token("inference"))
    published = folder / "public" / "dataset.pub"
    published.write_text(published.read_text() + (tmp_path / "elsewhere" / "dataset.pub").read_text())
    assert verifier.verify(new.token("inference")) == verifier.verify(old.token("inference"))


def test_private_key_is_kept_and_closed_to_others_when_made_again(folder):
    file = folder / "private" / "dataset.pem"
    before = file.read_bytes()
    make_key_pair("dataset", file, folder / "public")
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o777 == 0o600


def test_file_is_named_when_a_private_key_cannot_be_read(tmp_path):
    with pytest.raises(SettingsError, match=r"missing\.pem"):
        TokenSigner("dataset", tmp_path / "missing.pem")
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(SettingsError, match=r"bad\.pem"):
        TokenSigner("dataset", tmp_path / "bad.pem")


def test_calls_are_bound_to_the_app_when_it_is_named():
    assert app_of_outgoing_call() == 0
    with service_call_app(AppRef(7, "u", "trash")):
        assert app_of_outgoing_call() == 7
        with service_call_app(0):
            assert app_of_outgoing_call() == 0
    assert app_of_outgoing_call() == 0


def test_real_clock_is_used_when_none_is_given(folder):
    token = TokenSigner("dataset", folder / "private" / "dataset.pem").token("inference")
    assert jwt.decode(token, options={"verify_signature": False})["exp"] <= time.time() + 60
    TokenVerifier(folder / "public", "inference").verify(token)
