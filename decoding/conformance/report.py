"""The report of a run: as data, as a table for a terminal, as JSON."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

WIDTH = 100


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check: status "pass", "fail", "not offered" or "not run".

    evidence: the answer that broke the rule; or the reason why the check was not offered or not run.
    curl: a line that shows it again; "" where no single request does.
    """

    id: str
    sentence: str
    reason: str
    status: str
    evidence: str
    curl: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """A run: the server, the model, when it began (Unix time), how long it took, and what it asked of the server."""

    url: str
    model: str
    started: float
    seconds: float
    results: Sequence[Result]
    num_requests: int
    most_at_once: int

    @property
    def passed(self) -> bool:
        """Return True if no check failed and at least one passed."""
        statuses = [result.status for result in self.results]
        return "fail" not in statuses and "pass" in statuses

    @property
    def summary(self) -> str:
        """One line: how many of each status, and the load."""
        counts = Counter(result.status for result in self.results)
        told = ", ".join(f"{counts[status]} {status}" for status in ("pass", "fail", "not offered", "not run"))
        load = f"{self.num_requests} requests, at most {self.most_at_once} at once, {self.seconds:.1f} s"
        return f"{told} ({load})"

    @property
    def date(self) -> str:
        """The start of the run, in UTC."""
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.started))


def line(result: Result) -> str:
    """Return one result for a terminal; a failure with its evidence and its curl line."""
    lines = [f"{result.status:<12}{result.id:<25}{result.sentence}"]
    if result.status != "pass":
        lines += _indented(result.evidence)
    if result.status == "fail":
        lines += _indented(f"why it matters: {result.reason}")
        lines += [f"    {shortened(result.curl)}"] if result.curl else []
    return "\n".join(lines)


def table(report: Report) -> str:
    """Return the whole report for a terminal."""
    head = f"{report.model} at {report.url}, {report.date}"
    return "\n".join([head, *map(line, report.results), report.summary])


def shortened(curl: str) -> str:
    """Return a curl line cut to a readable length; the JSON report has all of it."""
    return curl if len(curl) <= 1000 else f"{curl[:1000]}... ({len(curl)} characters; the JSON report has it whole)"


def json_object(report: Report) -> dict[str, Any]:
    """Return the report as an object for json.dumps."""
    return {
        "url": report.url,
        "model": report.model,
        "date": report.date,
        "seconds": report.seconds,
        "requests": report.num_requests,
        "most_at_once": report.most_at_once,
        "passed": report.passed,
        "results": [asdict(result) for result in report.results],
    }


def _indented(text: str) -> list[str]:
    indent = "    "
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
