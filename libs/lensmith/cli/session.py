"""What every command shares: the options before it, and the client made of them."""

from dataclasses import dataclass
from pathlib import Path

from lensmith import Client
from lensmith.config import Config


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
        """A client with the operator's key: the one given, or else the one of the platform on this machine."""
        if self.key is None and (secret := local_operator_key(data_dir)):
            return Client(self.url, secret, self.app)
        return self.client()


def local_operator_key(data_dir: Path) -> str | None:
    """The operator's key of the platform whose data is on this machine, where this user may read it."""
    try:
        return (data_dir.expanduser() / "operator.key").read_text().strip()
    except OSError:
        return None
