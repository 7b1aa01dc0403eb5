"""Where the client finds the platform."""

from pathlib import Path

import pytest

from lensmith.config import Config
from lensmith.errors import InvalidInputError


@pytest.fixture(autouse=True)
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("URL", "KEY", "APP"):
        monkeypatch.delenv(f"LENSMITH_{name}", raising=False)
    path = tmp_path / "lensmith" / "config.toml"
    monkeypatch.setenv("LENSMITH_CONFIG", str(path))
    return path


def test_the_file_comes_back_as_it_was_saved(file: Path) -> None:
    config = Config("http://host:1", 'lsk_"quoted"', "trash")
    assert config.save() == file
    assert Config.load() == config
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_environment_overrules_the_file_and_arguments_both(monkeypatch: pytest.MonkeyPatch) -> None:
    Config("http://file", "file", "file").save()
    monkeypatch.setenv("LENSMITH_KEY", "environment")
    config = Config.load().replace(app="argument")
    assert (config.url, config.key, config.app) == ("http://file", "environment", "argument")


@pytest.mark.parametrize("text", ["kee = 'x'", "url = 3", "not toml at all ["])
def test_a_file_that_is_wrong_is_refused_by_name(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(InvalidInputError, match=r"config\.toml"):
        Config.load()
