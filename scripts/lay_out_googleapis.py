"""Lays the google/* protos of the googleapis-common-protos package out in `.build/googleapis`, where buf finds them."""

import shutil
from importlib.metadata import distribution
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / ".build" / "googleapis"
FOLDERS = ("google/api", "google/rpc", "google/type")


def main() -> None:
    """Copies the protos; an existing copy is replaced."""
    source = Path(str(distribution("googleapis-common-protos").locate_file("")))
    shutil.rmtree(TARGET, ignore_errors=True)
    for folder in FOLDERS:
        for proto in (source / folder).rglob("*.proto"):
            destination = TARGET / proto.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(proto, destination)


if __name__ == "__main__":
    main()
