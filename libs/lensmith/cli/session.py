"""What every command shares: the options before it, and the client made of them."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lensmith import Client
from lensmith.cli.options import LOOPBACK
from lensmith.config import DEFAULT_URL, Config


@dataclass
class Session:
    """Options given before the command; None where the environment or the configuration file decides."""

    url: str | None = None
    key: str | None = None
    app: str | None = None

    def config(self) -> Config:
        """What the client will use."""
        return Config.load().replace(url=self.url, key=self.key, app=self.app)

    def client(self) -> Client:
        """A client in the chosen app."""
        return Client(self.url, self.key, self.app)

    def operator_client(self, data_dir: Path) -> Client:
        """A client with the operator's key: the one given, or else the one of the platform on this machine.

        That key goes to this machine's platform only, never to another address that the configuration names.
        """
        config = self.config()
        if self.key is None and (secret := local_operator_key(data_dir)):
            here = _local_url(data_dir)
            if config.url in (DEFAULT_URL, here):
                return Client(here, secret, self.app)
            if urlsplit(config.url).hostname in LOOPBACK:
                return Client(config.url, secret, self.app)
        return self.client()


def _local_url(data_dir: Path) -> str:
    """Address of the platform that runs on this machine; the usual one where that cannot be told."""
    try:
        from lensmith_stack.commands import status
    except ImportError:
        return DEFAULT_URL
    told = status(data_dir)
    return told.url if told.pid else DEFAULT_URL


def local_operator_key(data_dir: Path) -> str | None:
    """The operator's key of the platform whose data is on this machine, where this user may read it."""
    try:
        return (data_dir.expanduser() / "operator.key").read_text().strip()
    except OSError:
        return None
