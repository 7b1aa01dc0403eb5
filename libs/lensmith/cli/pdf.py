"""Printing a page to PDF with the browser that is installed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lensmith.errors import InternalError, PreconditionError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
"""Programs that print a page to PDF, as they are called."""
PRINT_SECONDS = 120


def find_browser() -> str:
    """Returns the path of a browser that prints.

    Raises:
        PreconditionError: `BROWSER_NOT_FOUND`.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise PreconditionError(
            "BROWSER_NOT_FOUND",
            "there is no Chromium or Chrome here to print with: leave out --pdf, and print the page in any browser",
        )
    return browser


def print_to_pdf(page: str, target: Path, browser: str) -> None:
    """Prints a page of HTML to a file, which is replaced only when that worked.

    Raises:
        InternalError: `PDF_NOT_PRINTED`.
    """
    with tempfile.TemporaryDirectory(prefix="lensmith-report-") as folder:
        source, printed = Path(folder) / "report.html", Path(folder) / "report.pdf"
        source.write_text(page, encoding="utf-8")
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-pdf-header-footer",
            f"--user-data-dir={folder}/profile",
            f"--print-to-pdf={printed}",
            source.as_uri(),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            # Chromium has no sandbox for root; the page is ours and runs nothing.
            command.insert(1, "--no-sandbox")
        try:
            done = subprocess.run(command, capture_output=True, timeout=PRINT_SECONDS, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            raise InternalError("PDF_NOT_PRINTED", f"{browser} did not print within {PRINT_SECONDS} s") from None
        if not printed.is_file():
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise InternalError("PDF_NOT_PRINTED", f"{browser} printed nothing: {said}")
        shutil.move(printed, target)
