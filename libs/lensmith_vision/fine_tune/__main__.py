"""Does the job of a folder and tells how far it is, one JSON object a line.

``python -m lensmith_vision.fine_tune FOLDER``, and for several GPUs
``torchrun --nproc-per-node=4 -m lensmith_vision.fine_tune FOLDER``. With ``--check`` FOLDER is a pack: nothing is done
but to say whether it can be fine-tuned.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from lensmith_vision.errors import VisionError

_FAILED = 3
"""Exit status of a job that will fail again: what was wrong stands in the last line."""

_ORPHANED = 4
"""Exit status when whoever started it is gone."""


def main() -> int:
    """Parse and run; 0 when the result is there."""
    parser = argparse.ArgumentParser(prog="lensmith_vision.fine_tune", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with a job")
    parser.add_argument("--check", action="store_true", help="the folder is a pack: say whether it can be fine-tuned")
    parser.add_argument(
        "--until-eof", action="store_true", help="stop at once when standard input ends, as it does with its writer"
    )
    options = parser.parse_args()
    if options.until_eof:
        threading.Thread(target=_stop_at_eof, daemon=True).start()
    try:
        from lensmith_vision.fine_tune.checking import check_start
        from lensmith_vision.fine_tune.run import run
    except ImportError as error:
        return _failed("FINE_TUNING_NOT_INSTALLED", f'fine-tuning needs `pip install "lensmith[finetune]"`: {error}')
    try:
        if options.check:
            check_start(options.folder)
        else:
            run(options.folder, lambda event: _say({"event": asdict(event)}))
    except VisionError as error:
        return _failed(error.reason, str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _failed("DISK_FULL", str(error))
    return 0


def _stop_at_eof() -> None:
    # Straight from the descriptor: a lock of a buffered reader would be held when the interpreter ends.
    while os.read(0, 4096):
        pass
    # What counts lies in the folder already, complete or not at all; nothing else is to be finished.
    os._exit(_ORPHANED)


def _failed(reason: str, message: str) -> int:
    if int(os.environ.get("RANK", "0")) == 0:
        _say({"error": {"reason": reason, "message": message}})
    return _FAILED


def _say(document: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
