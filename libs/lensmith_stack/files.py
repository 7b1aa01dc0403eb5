"""Files that hold secrets or must never be seen half written."""

import os
import secrets
from pathlib import Path


def write_private(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace `path` atomically with a file only its owner can read (mode 0600).

    Args:
        path: the file.
        text: its new content.
        durable: whether it must survive a power cut, which costs a wait for the disk.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def keep_secret(path: Path) -> str:
    """A random secret of 256 bits, made on the first call and read from `path` (mode 0600) ever after."""
    if path.exists():
        return path.read_text().strip()
    secret = secrets.token_urlsafe(32)
    write_private(path, secret)
    return secret


def make_private_directory(path: Path) -> Path:
    """Make `path` (and its parents) if missing and close it to everyone else (mode 0700); returns it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path
