"""Where the client finds the platform: arguments, then the environment, then a file."""

import dataclasses
import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from lensmith._files import told_of
from lensmith.errors import InvalidInputError

DEFAULT_URL: Final = "http://127.0.0.1:8080"
FIELDS: Final = ("url", "key", "app")


@dataclass(frozen=True)
class Config:
    """Address of the platform, secret of a key, and own id of the app to work in."""

    url: str = DEFAULT_URL
    key: str = dataclasses.field(default="", repr=False)
    app: str = ""

    @classmethod
    def load(cls) -> Self:
        """Reads the file and lets the environment overrule it.

        Raises:
            InvalidInputError: `CONFIG_INVALID`: the file is not what `lensmith configure` writes.
        """
        values = _read(path())
        for name in FIELDS:
            if value := os.environ.get(f"LENSMITH_{name.upper()}"):
                values[name] = value
        return cls(**values)

    def replace(self, *, url: str | None = None, key: str | None = None, app: str | None = None) -> Self:
        """The same with what is given instead."""
        given = {"url": url, "key": key, "app": app}
        return dataclasses.replace(self, **{name: value for name, value in given.items() if value is not None})

    def save(self) -> Path:
        """Writes the file, readable by its owner only, and returns where it is."""
        target = path()
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A JSON string is a TOML string.
        text = "".join(f"{name} = {json.dumps(getattr(self, name))}\n" for name in FIELDS if getattr(self, name))
        partial = target.with_suffix(".partial")
        with told_of(target):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            partial.replace(target)
        return target


def path() -> Path:
    """The file: `LENSMITH_CONFIG`, or `lensmith/config.toml` in the user's configuration folder."""
    if given := os.environ.get("LENSMITH_CONFIG"):
        return Path(given)
    folder = os.environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path.home() / ".config") / "lensmith" / "config.toml"


def cache_folder() -> Path:
    """Where the client keeps what it can make again: `lensmith` in the user's cache folder."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "lensmith"


def _read(file: Path) -> dict[str, str]:
    try:
        values = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInputError("CONFIG_INVALID", f"cannot read {file}: {error}") from error
    wrong = sorted(name for name, value in values.items() if name not in FIELDS or not isinstance(value, str))
    if wrong:
        raise InvalidInputError(
            "CONFIG_INVALID", f"{file} holds {', '.join(wrong)}; it may hold {', '.join(FIELDS)}, as text"
        )
    return values
