"""Generates `lensmith._sync` from `lensmith._async`: the same client for code without an event loop.

One source keeps the two alike to the last word. `--check` changes nothing and fails when the committed code differs.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "libs" / "lensmith" / "_async"
TARGET = ROOT / "libs" / "lensmith" / "_sync"
NOTE = "# Generated from lensmith._async by scripts/generate_sync_client.py; do not edit.\n"
REPLACEMENTS = (
    (r"\blensmith\._async\b", "lensmith._sync"),
    (r"lensmith\.AsyncClient", "lensmith.Client"),
    (
        r"\bAsync(Client|Transport|Apps|Keys|Usage|Inputs|Concepts|Annotations|Models|BaseModels|Upgrades|Suggestions|Evaluations)\b",
        r"\1",
    ),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\b__aenter__\b", "__enter__"),
    (r"\b__aexit__\b", "__exit__"),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait asyncio\.sleep\b", "time.sleep"),
    (r"\bawait ", ""),
    (r"^import asyncio\n", ""),
    (r"\bgrpc\.aio\.", "grpc."),
    (r"The asynchronous client\.[^\"]*", "The synchronous client."),
)


def main() -> int:
    """Generates, or with `--check` compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail when the committed code differs")
    check = parser.parse_args().check
    status = 0
    for source in sorted(SOURCE.glob("*.py")):
        generated, target = formatted(to_sync(source.read_text())), TARGET / source.name
        if not check:
            target.parent.mkdir(exist_ok=True)
            target.write_text(generated)
        elif not target.exists() or target.read_text() != generated:
            print(f"differs from its source: {target.relative_to(ROOT)}", file=sys.stderr)
            status = 1
    return status


def to_sync(text: str) -> str:
    """The synchronous form of an asynchronous module."""
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    # The import of the two kinds of iterator would now name one class twice.
    text = re.sub(r"^(from collections\.abc import )(.*)$", _distinct_names, text, count=1, flags=re.MULTILINE)
    return NOTE + text


def _distinct_names(line: re.Match[str]) -> str:
    return line[1] + ", ".join(sorted(set(line[2].split(", "))))


def formatted(text: str) -> str:
    """Formats code and sorts its imports as the rest of the project."""
    for command in (["check", "--select", "I", "--fix-only", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", "libs/lensmith/_sync/x.py", "-"],
            input=text, capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout  # fmt: skip
    return text


if __name__ == "__main__":
    sys.exit(main())
