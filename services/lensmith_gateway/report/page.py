"""The report as one page that needs nothing else: no script, no font, no file beside it."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from lensmith_gateway.report import words
from lensmith_gateway.report.content import Report

__all__ = ["POLICY", "as_html", "as_json"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""What a browser may do with the page: show it, and nothing else, whatever stands in a name."""


def as_html(report: Report) -> str:
    """Render the page. Everything that users wrote is escaped."""
    return _template().render(report=report, policy=POLICY)


def as_json(report: Report) -> str:
    """The same for programs."""
    return json.dumps(dataclasses.asdict(report), ensure_ascii=False, indent=1) + "\n"


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = words.percent
    return environment.get_template("report.html.jinja")
