"""The conformance kit: what must hold of any server of the Completions API, checked over HTTP.

    report = run_conformance("http://localhost:8000", "my-model")
    print(table(report))

`decoding conformance` is the same on the command line, decoding.conformance.pytest_plugin the same as tests.
docs/conformance.md lists the checks.
"""

from decoding.conformance.check import Check
from decoding.conformance.client import Client, Load, NoAnswerError
from decoding.conformance.html import html_page
from decoding.conformance.outcome import Status
from decoding.conformance.report import Report, Result, json_object, table
from decoding.conformance.run import CHECKS, run_check, run_conformance, selected_checks
from decoding.conformance.target import Target

__all__ = [
    "CHECKS",
    "Check",
    "Client",
    "Load",
    "NoAnswerError",
    "Report",
    "Result",
    "Status",
    "Target",
    "html_page",
    "json_object",
    "run_check",
    "run_conformance",
    "selected_checks",
    "table",
]
