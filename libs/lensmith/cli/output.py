"""What commands print: tables for people, JSON for programs."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lensmith.errors import LensmithError
from lensmith.types import EvaluationSummary, Finding, Severity

_UNBOUNDED = 10_000
"""Columns of what is no terminal: a pipe or file gets each row and sentence on one line."""
_PADDING = 2
_FOLDED = 12
"""Columns that a text wants at least before it is folded."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED)
errors = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _UNBOUNDED)

SEVERITY_STYLE = {Severity.HINT: "dim", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}


def print_json(value: object) -> None:
    """Prints a value as one JSON document."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, indent=2) + "\n")


def safe(text: str) -> str:
    """A text of somebody else as it may be printed: neither markup nor a command to the terminal."""
    return escape("".join(mark if mark.isprintable() or mark == "\n" else "\ufffd" for mark in text))


def plain(value: object) -> Any:
    """What JSON can say of a value of the SDK."""
    if isinstance(value, LensmithError):
        return {"reason": value.reason, "message": str(value), "metadata": value.metadata}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """Prints a table; without rows, prints `empty`.

    Columns whose name begins with `#` hold numbers; those whose name begins with `!` are to be copied, so they never
    break. Without any name there is no head. Where the terminal is too narrow, each row becomes a list of its own.
    """
    shown = [[cell(value) for value in row] for row in rows]
    if not shown and empty:
        console.print(empty, style="dim")
        return
    if title:
        console.print(title, style="bold", markup=False)
    named = any(map(_heading, columns))
    if named and _least_width(columns, shown) > console.width:
        for row in shown:
            _draw(_list(columns, row))
            console.print()
        return
    table = Table(header_style="bold", box=None, show_header=named)
    for column in columns:
        table.add_column(
            _heading(column),
            justify="right" if column.startswith("#") else "left",
            overflow="fold",
            no_wrap=column.startswith(("#", "!")),
        )
    for row in shown:
        table.add_row(*row)
    _draw(table)


def _heading(column: str) -> str:
    """The name of a column without its mark."""
    return column[1:] if column.startswith(("#", "!")) else column


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Below that, a table would hide columns or break words letter by letter."""
    least = 0
    for number, column in enumerate(columns):
        lines = [_heading(column), *(line for row in rows for line in Text.from_markup(row[number]).plain.split("\n"))]
        widest = max(map(cell_len, lines))
        least += _PADDING + (widest if column.startswith(("#", "!")) else min(widest, _FOLDED))
    return least


def _list(columns: Sequence[str], row: Sequence[str]) -> Table:
    """One row of a table that is too wide, a line for each cell that says something."""
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for column, value in zip(columns, row, strict=True):
        if value:
            table.add_row(_heading(column), value)
    return table


def _draw(block: RenderableType) -> None:
    with console.capture() as drawn:
        console.print(block)
    # Lines are filled up to the width of their column; at the end of a line, nothing reads that.
    console.file.write("".join(line.rstrip() + "\n" for line in drawn.get().splitlines()))


def cell(value: object) -> str:
    """A value as it stands in a table. What came from users is never taken for markup."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bool):
        return "yes" if value else ""
    return safe(str(value))


def print_findings(findings: Iterable[Finding]) -> None:
    """Prints what was noticed about the data, gravest first."""
    order = list(reversed(Severity))
    for finding in sorted(findings, key=lambda item: order.index(item.severity)):
        print_indented(f"{finding.severity}: {finding.message}", style=SEVERITY_STYLE[finding.severity])


def print_indented(text: str, *, style: str = "") -> None:
    """Prints a sentence that belongs to what stands above it, in all its lines."""
    _draw(Padding(Text.from_markup(safe(text), style=style), (0, 0, 0, 2), expand=False))


def print_error(error: LensmithError) -> None:
    """Prints why a command failed, and what may help."""
    errors.print(f"[bold red]error:[/] {safe(str(error))}", soft_wrap=True)
    if hint := _HINTS.get(error.reason):
        errors.print(f"[dim]{safe(hint)}[/]", soft_wrap=True)
    errors.print(f"[dim]({safe(error.reason)}{_request(error)})[/]")


def _request(error: LensmithError) -> str:
    return f", request {error.request_id}" if error.request_id else ""


def counted(count: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def summary_text(summary: EvaluationSummary) -> str:
    """The figures of an evaluation in one line."""
    figures = [
        ("accuracy", summary.accuracy, 3),
        ("F1", summary.macro_f1, 3),
        ("precision", summary.macro_precision, 3),
        ("recall", summary.macro_recall, 3),
        ("R²", summary.r2, 3),
        ("mean error", summary.mean_absolute_error, 2),
    ]
    return ", ".join(f"{name} {value:.{digits}f}" for name, value, digits in figures if value is not None)


_HINTS = {
    "UNAVAILABLE": "Is the platform running? `lensmith up` starts it on this machine, `lensmith status` tells.",
    "CONNECTION_LOST": "`lensmith status` tells how the platform is.",
    "CREDENTIALS_MISSING": "Set LENSMITH_KEY, or save a key with `lensmith configure`.",
    "KEY_UNKNOWN": "`lensmith apps use NAME` makes a key for this machine's platform; `lensmith configure` saves one.",
    "APP_NOT_CHOSEN": "`lensmith apps create NAME` makes one and uses it from then on.",
    "SCOPE_MISSING": "`lensmith whoami` tells what the key may do; `lensmith keys create` makes another.",
    "MODEL_NOT_FOUND": "`lensmith models list` shows the app's models.",
    "VERSION_NOT_FOUND": "`lensmith models versions MODEL` shows the versions.",
    "KEY_NOT_FOUND": "`lensmith keys list` shows the keys of the app.",
    "APP_NOT_FOUND": "`lensmith apps list` shows the apps.",
    "APP_EXISTS": "`lensmith apps use NAME` works in it.",
    "TRAINING_NO_NEGATIVES": "`--closed`: pictures without the label of a concept count as not showing it.",
    "TRAINING_ONE_CONCEPT": "`lensmith import FOLDER` labels each picture with the name of the subfolder it is in.",
    "TRAINING_NO_TEST_IMAGES": "`lensmith import FOLDER --test` brings pictures in that nothing is trained on.",
    "MODEL_HAS_NO_TRAINED_VERSION": "`lensmith train MODEL --watch` trains one.",
}
