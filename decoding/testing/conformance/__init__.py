"""The conformance kit: what must hold of any server of the Completions API, checked over HTTP.

    report = run_conformance("http://localhost:8000", "my-model")
    print(table(report))

`decoding conformance` is the same on the command line, decoding.testing.pytest_plugin the same as tests.
docs/conformance.md lists the checks.
"""

from decoding.testing.conformance.check import Check, Status
from decoding.testing.conformance.client import Client, Load, NoAnswerError
from decoding.testing.conformance.html import html_page
from decoding.testing.conformance.report import Report, Result, json_object, table
from decoding.testing.conformance.run import CHECKS, run_check, run_conformance, selected_checks
from decoding.testing.conformance.target import Target

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
