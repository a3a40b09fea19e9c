"""The conformance kit as a pytest plugin: every check is a test.

    pytest -p decoding.conformance.pytest_plugin --conformance-url http://localhost:8000 --conformance-model NAME

or `pytest_plugins = ["decoding.conformance.pytest_plugin"]` in a conftest.py; options in the project's settings.
Checks that the server does not offer, or that the limits on the load do not allow, are skipped with the reason.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from decoding.conformance import CHECKS, Check, Client, Load, Target, run_check
from decoding.conformance.report import shortened


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; without --conformance-url the plugin does nothing."""
    group = parser.getgroup("conformance", "conformance of a server of the Completions API")
    group.addoption("--conformance-url", metavar="URL", help="http://HOST:PORT, with or without /v1")
    group.addoption("--conformance-model", metavar="NAME", help="the model to ask for")
    group.addoption("--conformance-prompt", metavar="TEXT", help="what most checks complete")
    group.addoption("--conformance-api-key-env", metavar="NAME", help="environment variable with the server's key")
    group.addoption("--conformance-concurrency", type=int, default=4, metavar="N", help="requests at once, at most")
    group.addoption("--conformance-max-requests", type=int, default=1000, metavar="N", help="requests in all, at most")
    group.addoption("--conformance-draws", type=int, default=400, metavar="N", help="draws for each statistic")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each check, before `-k` and the like choose among them."""
    url = config.getoption("--conformance-url")
    if url is None:
        return
    model = config.getoption("--conformance-model")
    if model is None:
        raise pytest.UsageError("--conformance-url needs --conformance-model")
    variable = config.getoption("--conformance-api-key-env")
    if variable is not None and variable not in os.environ:
        raise pytest.UsageError(f"--conformance-api-key-env: {variable} is not set")
    load = Load(
        concurrency=config.getoption("--conformance-concurrency"),
        max_requests=config.getoption("--conformance-max-requests"),
    )
    client = Client(url, api_key=os.environ[variable] if variable else None, load=load)
    prompt, num_draws = config.getoption("--conformance-prompt"), config.getoption("--conformance-draws")
    target = Target(client, model, prompt=prompt, num_draws=num_draws)
    for check in CHECKS:
        items.append(ConformanceItem.from_parent(session, name=check.id, check=check, target=target))


class NonconformanceError(Exception):
    """A check failed."""


class ConformanceItem(pytest.Item):
    """One check as a test."""

    def __init__(self, *, check: Check, target: Target, **options: Any) -> None:
        super().__init__(**options)
        self.check, self.target = check, target

    def runtest(self) -> None:
        """Run the check."""
        result = run_check(self.check, self.target)
        if result.status == "fail":
            lines = (result.sentence, result.evidence, f"why it matters: {result.reason}", shortened(result.curl))
            raise NonconformanceError("\n".join(filter(None, lines)))
        if result.status != "pass":
            pytest.skip(f"{result.status}: {result.evidence}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the evidence without the kit's own traceback."""
        if isinstance(excinfo.value, NonconformanceError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        """Return the test's name in reports."""
        return "conformance", None, self.name
