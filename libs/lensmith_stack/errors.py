"""What can go wrong on the way up: one type per cause, one clear sentence each."""

from pathlib import Path


class StackError(Exception):
    """Base of everything the stack refuses or fails at; its text is one sentence for the person at the terminal."""


class DirectoryForeignError(StackError):
    """The data directory holds something that is not Lensmith's."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is not empty and is not a Lensmith data directory: choose an empty or a new one with --data-dir."
        )


class DirectoryVersionError(StackError):
    """The data directory was written by a Lensmith (or a Postgres) this one cannot read."""


class DirectoryUnusableError(StackError):
    """The data directory cannot be made, opened or reached."""


class AlreadyRunningError(StackError):
    """Another platform holds the data directory."""

    def __init__(self, path: Path, pid: int | None) -> None:
        holder = f" (process {pid})" if pid else ""
        super().__init__(f"Lensmith is already running on {path}{holder}: use it, or stop it with `lensmith down`.")


class NotRunningError(StackError):
    """No platform runs on the data directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"Lensmith is not running on {path}: start it with `lensmith up`.")


class PortTakenError(StackError):
    """The public port belongs to someone else."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"Port {port} on {host} cannot be used ({reason}): choose another one with --port.")


class StartError(StackError):
    """A part did not come up.

    Attributes:
        part: its name.
        tail: the last lines it logged.
    """

    def __init__(self, part: str, reason: str, tail: str) -> None:
        self.part = part
        self.tail = tail
        super().__init__(f"{part} did not start: {reason}." + (f" Its last words:\n{tail}" if tail else ""))


class MissingProgramError(StackError):
    """A server's program is not installed."""

    def __init__(self, program: str) -> None:
        super().__init__(f"The program {program} is not installed: install the one-machine platform, lensmith[stack].")
