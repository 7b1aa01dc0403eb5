"""What the services are told is what they ask for."""

import importlib
import os
import stat
from pathlib import Path

import pytest

from lensmith_platform.settings import ServiceSettings, load
from lensmith_stack.files import make_private_directory
from lensmith_stack.servers import SERVER_PORTS, Servers
from lensmith_stack.services import SERVICE_PORTS, SERVICES, Services

PORTS = {name: 20000 + number for number, name in enumerate((*SERVER_PORTS, *SERVICE_PORTS))}


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return Services(
        servers=Servers(tmp_path, "test", PORTS),
        sockets=make_private_directory(tmp_path / "run"),
        keys=make_private_directory(tmp_path / "keys"),
        caches=make_private_directory(tmp_path / "cache"),
        ports=PORTS,
        operator_key_file=tmp_path / "operator.key",
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_accepts_its_settings_when_the_stack_starts_it(
    services: Services, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (services.operator_key_file).write_text("lsk_x")
    for name in [name for name in os.environ if name.startswith("LENSMITH_")]:
        monkeypatch.delenv(name)
    for name, value in services.environment(service).items():
        monkeypatch.setenv(name, value)
    module = importlib.import_module(f"lensmith_{service}.settings")
    (settings_class,) = (
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, ServiceSettings) and kind is not ServiceSettings
    )
    settings = load(settings_class)
    assert settings.listen == services.address(service)
    assert service not in settings.addresses


def test_every_service_has_a_key_of_its_own_when_programs_are_made(services: Services) -> None:
    programs = services.programs()
    assert [program.name for program in programs] == list(SERVICES)
    private = sorted((services.keys / "private").iterdir())
    assert [file.stem for file in private] == sorted(SERVICES)
    assert {stat.S_IMODE(file.stat().st_mode) for file in private} == {0o600}
    assert len({file.read_bytes() for file in private}) == len(SERVICES)
    before = [file.read_bytes() for file in private]
    services.programs()
    assert [file.read_bytes() for file in private] == before


def test_secrets_stand_in_no_argument_when_programs_are_made(services: Services) -> None:
    secrets = [file.read_text() for file in services.keys.parent.joinpath("secrets").rglob("*") if file.is_file()]
    for program in services.programs():
        assert not [word for word in program.argv for secret in secrets if secret in word]
