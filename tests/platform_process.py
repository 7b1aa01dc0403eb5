"""The whole platform, run as a user runs it: `lensmith up --detach` on a data directory of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lensmith import Client
from lensmith_stack.ports import free_ports


@dataclass
class PlatformProcess:
    """A running platform."""

    data_dir: Path
    port: int
    environment: dict[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def operator_key(self) -> str:
        return (self.data_dir / "operator.key").read_text().strip()

    def operator(self) -> Client:
        """A client with the operator's key."""
        return Client(self.url, self.operator_key)

    def new_app(self, name: str) -> Client:
        """A client in a new app, with its `All` key."""
        with self.operator() as operator:
            _, key = operator.apps.create(name)
        return Client(self.url, key.secret, name)

    def cli(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as a user does."""
        done = subprocess.run(
            [Path(sys.executable).parent / "lensmith", *arguments],
            env={**self.environment, "LENSMITH_URL": self.url, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    def parts(self) -> dict[str, dict[str, object]]:
        """How each part stands, by name."""
        return {part["name"]: part for part in json.loads(self.cli("status", "--json").stdout)["parts"]}


@contextmanager
def platform_process(folder: Path, **settings: str) -> Iterator[PlatformProcess]:
    """Starts a platform and stops it at the end; its logs are printed when the block fails."""
    # Not any port that is free: a client's connection could have one that is for clients by the time that it is needed,
    # as one that asks again and again while Envoy is away.
    (port,) = free_ports(1)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LENSMITH_")}
    environment |= {
        "LENSMITH_DATA_DIR": str(folder / "data"),
        "LENSMITH_CONFIG": str(folder / "config.toml"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        # Pictures come from a server of the test's own.
        "LENSMITH_DATASET_ALLOW_PRIVATE_URLS": "true",
        "LENSMITH_INFERENCE_ALLOW_PRIVATE_URLS": "true",
        **settings,
    }
    platform = PlatformProcess(folder / "data", port, environment)
    try:
        platform.cli("up", "--detach", "--port", str(port))
        yield platform
    except BaseException:
        sys.stdout.write(platform.cli("logs", "-n", "30", check=False).stdout)
        raise
    finally:
        platform.cli("down", check=False)
        # For root it lies elsewhere, if Postgres' system user could not get through to the folder.
        shutil.rmtree((folder / "data" / "postgres").resolve(), ignore_errors=True)
