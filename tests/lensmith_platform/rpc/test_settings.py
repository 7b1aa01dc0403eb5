"""Settings say what is wrong with them."""

import os

import pytest
from pydantic import ValidationError

from lensmith_platform.settings import (
    BusSettings,
    PostgresSettings,
    ServiceSettings,
    SettingsConfigDict,
    SettingsError,
    describe,
    load,
    masked,
    service_name,
)


class DatasetSettings(ServiceSettings, PostgresSettings, BusSettings):
    model_config = SettingsConfigDict(env_prefix="LENSMITH_DATASET_")
    batch: int = 32
    """Inputs of a batch."""


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A complete environment; nothing of the machine's own settings."""
    for name in list(os.environ):
        if name.startswith("LENSMITH_DATASET_"):
            monkeypatch.delenv(name)
    for name, value in {
        "SERVICE_KEY_FILE": str(tmp_path / "key"),
        "SERVICE_KEYS_DIR": str(tmp_path),
        "POSTGRES_URL": "postgresql://u:hunter2@h/d",
        "WORKER_POSTGRES_URL": "postgresql://w:hunter2@h/d",
        "NATS_URL": "nats://u:hunter2@h:1",
    }.items():
        monkeypatch.setenv(f"LENSMITH_DATASET_{name}", value)
    return lambda name, value: monkeypatch.setenv(f"LENSMITH_DATASET_{name}", value)


def test_settings_are_read_when_the_environment_is_complete(environment):
    environment("ADDRESSES__AUTH", "unix:/run/auth.sock")
    environment("BATCH", "8")
    settings = load(DatasetSettings)
    assert settings.batch == 8
    assert settings.addresses == {"auth": "unix:/run/auth.sock"}
    assert service_name(settings) == "dataset"


def test_secrets_are_masked_when_settings_are_shown(environment):
    settings = load(DatasetSettings)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(masked(settings))
    assert settings.postgres_url.get_secret_value() == "postgresql://u:hunter2@h/d"


def test_settings_cannot_change_when_they_are_loaded(environment):
    settings = load(DatasetSettings)
    with pytest.raises(ValidationError):
        settings.batch = 3


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("BATHC", "8", r"LENSMITH_DATASET_BATHC is not a setting; did you mean LENSMITH_DATASET_BATCH\?"),
        ("ZZZ__AUTH", "8", "LENSMITH_DATASET_ZZZ__AUTH is not a setting"),
        ("ZZZ_FILE", "8", "LENSMITH_DATASET_ZZZ_FILE is not a setting"),
        ("BATCH", "many", r"LENSMITH_DATASET_BATCH is wrong: .*Inputs of a batch"),
        ("LOG_LEVEL", "loud", "LENSMITH_DATASET_LOG_LEVEL is wrong"),
        ("ADDRESSES", "{", "cannot be read"),
        ("NATS_URL_FILE", "/x", "are both set"),
        ("BATCH_FILE", "/does/not/exist", "names /does/not/exist, which cannot be read"),
    ],
)
def test_variable_is_named_when_it_is_wrong(environment, name, value, why):
    environment(name, value)
    with pytest.raises(SettingsError, match=why):
        load(DatasetSettings)


def test_variable_is_named_when_it_is_missing(environment, monkeypatch):
    monkeypatch.delenv("LENSMITH_DATASET_POSTGRES_URL")
    with pytest.raises(SettingsError, match=r"LENSMITH_DATASET_POSTGRES_URL .* is not set"):
        load(DatasetSettings)


def test_value_comes_from_a_file_when_one_is_named(environment, monkeypatch, tmp_path):
    monkeypatch.delenv("LENSMITH_DATASET_POSTGRES_URL")
    (tmp_path / "url").write_text("postgresql://from/file\n")
    environment("POSTGRES_URL_FILE", str(tmp_path / "url"))
    assert load(DatasetSettings).postgres_url.get_secret_value() == "postgresql://from/file"


def test_no_secret_is_told_when_a_secret_is_wrong(environment):
    environment("POSTGRES_POOL_SIZE", "hunter2")
    with pytest.raises(SettingsError) as caught:
        load(DatasetSettings)
    assert "hunter2" not in str(caught.value)


def test_every_setting_is_described_when_documentation_is_made():
    rows = {row.name: row for row in describe(DatasetSettings)}
    assert rows["LENSMITH_DATASET_BATCH"].default == "32"
    assert rows["LENSMITH_DATASET_POSTGRES_URL"].default is None
    assert [name for name, row in rows.items() if not row.description] == []
