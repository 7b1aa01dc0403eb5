"""Does the job of a folder and tells how far it is, one JSON object a line.

``python -m lensmith_vision.fine_tune FOLDER``, and for several GPUs
``torchrun --nproc-per-node=4 -m lensmith_vision.fine_tune FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from lensmith_vision.errors import VisionError

_FAILED = 3
"""Exit status of a job that will fail again: what was wrong stands in the last line."""


def main() -> int:
    """Parse and run; 0 when the result is there."""
    parser = argparse.ArgumentParser(prog="lensmith_vision.fine_tune", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with a job")
    folder = parser.parse_args().folder
    try:
        from lensmith_vision.fine_tune.run import run
    except ImportError as error:
        return _failed("FINE_TUNING_NOT_INSTALLED", f'fine-tuning needs `pip install "lensmith[finetune]"`: {error}')
    try:
        run(folder, lambda event: _say({"event": asdict(event)}))
    except VisionError as error:
        return _failed(error.reason, str(error))
    return 0


def _failed(reason: str, message: str) -> int:
    if int(os.environ.get("RANK", "0")) == 0:
        _say({"error": {"reason": reason, "message": message}})
    return _FAILED


def _say(document: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
