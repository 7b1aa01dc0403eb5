"""The supervisor in the background: what `up --detach` starts. Takes its options as one JSON argument."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from lensmith_stack.commands import up
from lensmith_stack.composition import UpOptions


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with suppress(PermissionError):  # It leads a session already.
        os.setsid()  # The terminal that started it may go.
    asked = json.loads(sys.argv[1])
    options = UpOptions(
        data_dir=Path(asked["data_dir"]),
        host=asked["host"],
        port=asked["port"],
        cors_origins=tuple(asked["cors_origins"]),
    )
    sys.exit(up(options, _say))
