"""Makes the Secrets of an installation: service keys, the operator's key and the addresses with their passwords.

    python deploy/helm/make_secrets.py --prefix lensmith \
        --postgres postgresql://postgres.example:5432/lensmith --passwords passwords.json \
        --nats nats://lensmith:…@nats.example:4222 --s3 https://access:secret@s3.example/lensmith \
        | kubectl apply -f -

`passwords.json` holds a password for each Postgres role, as `lensmith_platform.db.roles` was given them. Keys are made
anew each time: run it again only to exchange them. The operator's key is printed on standard error, once.
"""

import argparse
import base64
import json
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from lensmith_platform.service_auth import make_key_pair

SERVICES = ("auth", "dataset", "registry", "inference", "trainer", "gateway")
OWNERS = ("auth", "dataset", "registry")
"""Services with a Postgres schema."""
STORERS = ("dataset", "registry", "gateway")
"""Services that read or write S3."""
MIGRATE_ROLE = "lensmith_migrate"


def main() -> int:
    """Print a list of Secrets as JSON, which kubectl takes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefix", required=True, help="value `secrets.prefix` of the chart")
    parser.add_argument("--postgres", required=True, help="postgresql://host:port/database, without a role")
    parser.add_argument("--passwords", required=True, type=Path, help="JSON file: password by role")
    parser.add_argument("--nats", required=True, help="nats://user:password@host:port")
    parser.add_argument("--s3", required=True, help="https://access:secret@host/bucket")
    arguments = parser.parse_args()
    passwords: dict[str, str] = json.loads(arguments.passwords.read_text())
    operator_key = f"lsk_{secrets.token_urlsafe(32)}"
    contents = secret_contents(arguments.postgres, passwords, arguments.nats, arguments.s3, operator_key)
    items = [_secret(f"{arguments.prefix}-{name}", data) for name, data in contents.items()]
    sys.stdout.write(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=1) + "\n")
    sys.stderr.write(f"operator's key: {operator_key}\n")
    return 0


def secret_contents(
    postgres: str, passwords: Mapping[str, str], nats: str, s3: str, operator_key: str
) -> dict[str, dict[str, str]]:
    """Content of each Secret by the end of its name: a service, `migrate` or `keys`.

    Raises:
        KeyError: a role has no password.
    """
    contents: dict[str, dict[str, str]] = {"keys": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for service in SERVICES:
            make_key_pair(service, folder / f"{service}.pem", folder / "public")
            contents["keys"][f"{service}.pub"] = (folder / "public" / f"{service}.pub").read_text()
            contents[service] = {"service-key.pem": (folder / f"{service}.pem").read_text(), "nats-url": nats}
    for service in OWNERS:
        contents[service]["postgres-url"] = role_url(postgres, f"lensmith_{service}", passwords)
        contents[service]["worker-postgres-url"] = role_url(postgres, f"lensmith_{service}_worker", passwords)
    for service in STORERS:
        contents[service]["s3-url"] = s3
    contents["auth"]["bootstrap-key"] = operator_key
    contents["migrate"] = {"postgres-url": role_url(postgres, MIGRATE_ROLE, passwords)}
    return contents


def role_url(postgres: str, role: str, passwords: Mapping[str, str]) -> str:
    """The database's URL for one role."""
    parts = urlsplit(postgres)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{role}:{quote(passwords[role], safe='')}@{host}").geturl()


def _secret(name: str, data: Mapping[str, str]) -> dict[str, object]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "data": encoded}


if __name__ == "__main__":
    sys.exit(main())
