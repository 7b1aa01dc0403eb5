"""Progress bars, shown on a terminal only."""

from contextlib import AbstractContextManager, nullcontext

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from lensmith.cli.output import errors


class RateColumn(ProgressColumn):
    """How many items a second."""

    def render(self, task: Task) -> Text:
        """Renders the column of one bar."""
        # Over all the time: a batch settles many items in a moment, and a rate of that would be thousands.
        took = task.finished_time or task.elapsed
        return Text(f"{task.completed / took:.0f}/s" if took and task.completed else "", style="dim")


def counting_progress() -> Progress:
    """A bar that counts items."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
    )


def fraction_progress() -> Progress:
    """A bar that shows a fraction and what is being done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[doing]}"),
        console=errors,
        disable=not errors.is_terminal,
    )


def learning_progress() -> Progress:
    """A bar for what may take hours: what is being done stands above it, line by line, what is left beside it."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[doing]}"),
        console=errors,
        disable=not errors.is_terminal,
        # An epoch may take minutes.
        speed_estimate_period=1800.0,
    )


def bytes_progress() -> Progress:
    """A bar that counts bytes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
    )


def waiting(what: str) -> AbstractContextManager[object]:
    """Says what is waited for, as long as it is."""
    return errors.status(what) if errors.is_terminal else nullcontext()
