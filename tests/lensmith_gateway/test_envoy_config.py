"""What the generator of Envoy's configuration refuses, and what it never writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lensmith_gateway.contract import OWNERS, Contract, ContractError, load_contract
from lensmith_gateway.envoy_config import envoy_yaml
from lensmith_gateway.envoy_settings import TARGETS, Address, EnvoySettings, EnvoySettingsError, Tls
from lensmith_stack.programs import script

UNIX = Address.parse("unix:/run/admin.sock")


def settings(**changes: object) -> EnvoySettings:
    """Settings that are good, but for the changes."""
    given: dict[str, object] = {
        "public": Address("127.0.0.1", 8080),
        "targets": {name: Address.parse(f"{name}.internal:50051") for name in TARGETS},
        "gateway_http": Address.parse("gateway.internal:8000"),
        "admin": UNIX,
    }
    return EnvoySettings(**(given | changes))  # type: ignore[arg-type]  # each test says what it changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"admin": Address("0.0.0.0", 9901)}, "admin address"),
        ({"admin": Address("admin.example", 9901)}, "admin address"),
        ({"targets": {}}, "No target is given for auth"),
        ({"targets": {name: UNIX for name in (*TARGETS, "mailer")}}, "Nothing is routed to mailer"),
        ({"cors_origins": ["example.org"]}, "not an origin"),
    ],
)
def test_settings_are_refused_when_unsafe_or_incomplete(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EnvoySettingsError, match=message):
        settings(**changes)


@pytest.mark.parametrize("text", ["", "8080", "host:", ":80", "host:0", "host:65536", "host:x", "unix:relative"])
def test_address_is_refused_when_it_is_none(text: str) -> None:
    with pytest.raises(EnvoySettingsError):
        Address.parse(text)


def test_every_public_service_is_routed_to_its_owner_when_generated() -> None:
    config = yaml.safe_load(envoy_yaml(load_contract(), settings()))
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    prefixes = {route["match"].get("prefix"): route["route"]["cluster"] for route in routes if "route" in route}
    for service, owner in OWNERS.items():
        assert prefixes[f"/lensmith.v1.{service}/"] == owner


def test_nothing_internal_is_told_when_generated() -> None:
    text = envoy_yaml(load_contract(), settings())
    assert "lensmith.internal" not in text
    assert b"lensmith.internal" not in load_contract().transcoder_descriptors()


def test_configuration_is_the_same_when_generated_again() -> None:
    assert envoy_yaml(load_contract(), settings()) == envoy_yaml(load_contract(), settings())


def test_contract_is_refused_when_a_service_has_no_owner() -> None:
    with pytest.raises(ContractError, match="InputService"):
        Contract(b"")


def test_envoy_accepts_the_configuration_when_names_and_tls_are_used(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"), "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True)
    tls = Tls(tmp_path / "cert.pem", tmp_path / "key.pem")
    config = tmp_path / "envoy.yaml"
    config.write_text(envoy_yaml(load_contract(), settings(tls=tls, cors_origins=["*"], access_log="json")))
    result = subprocess.run(
        [str(script("envoy")), "--mode", "validate", "-c", str(config)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    # Nothing it would warn of, such as a deprecated option.
    assert not re.findall(r"\[warning\].*", result.stderr)


def test_command_line_says_what_is_missing_when_called_without_targets() -> None:
    command = [sys.executable, "-m", "lensmith_gateway.envoy_config", "--gateway-http", "x:1", "--admin", "unix:/a"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "No target is given for auth, dataset, gateway, inference, registry." in result.stderr
