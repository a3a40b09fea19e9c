"""Run the checks one after another, whatever the server answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from decoding.conformance import (
    choices,
    company,
    constraints,
    draws,
    errors,
    extensions,
    scores,
    shapes,
    stops,
    streaming,
)
from decoding.conformance.check import Check
from decoding.conformance.client import Client, Load, LoadLimitError, NoAnswerError
from decoding.conformance.outcome import FailedError, NotOfferedError
from decoding.conformance.report import Report, Result
from decoding.conformance.target import Target
from decoding.errors import ParameterError

CHECKS: tuple[Check, ...] = tuple(
    check
    for module in (shapes, stops, streaming, scores, choices, draws, constraints, extensions, company, errors)
    for check in module.check.checks
)
"""Every check, in the order in which they run."""

BROKEN_SHAPES = (KeyError, IndexError, TypeError, ValueError, AttributeError)
"""Exceptions from reading an answer that does not have the shape that a check expects."""


def run_conformance(
    url: str,
    model: str,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    api_key: str | None = None,
    prompt: str | None = None,
    num_draws: int = 400,
    load: Load | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Run the checks against a server and return the report.

    Args:
        url: http(s)://host:port, with or without /v1.
        model: the name to ask for.
        only: ids, or patterns such as "stop.*"; all by default.
        skip: ids or patterns that do not run.
        api_key: sent as a bearer token.
        prompt: the prompt of most checks; None finds one that the model continues with text.
        num_draws: tokens drawn for each check of statistics.
        load: the limits on requests and tokens.
        on_result: called after each check.

    Raises:
        ParameterError: a bad url, or a pattern that no check has.
        NoAnswerError: the very first request is not answered at all.
    """
    checks = selected_checks(only, skip)
    client = Client(url, api_key=api_key, load=load)
    target = Target(client, model, prompt=prompt, num_draws=num_draws)
    client.send(target.body({"prompt": prompt or "a", "max_tokens": 1}))  # whether anybody is there
    started = time.time()
    results = []
    for check in checks:
        results.append(run_check(check, target))
        on_result(results[-1])
    sent = client.sent
    return Report(client.base_url, model, started, time.time() - started, results, sent.requests, sent.most_at_once)


def selected_checks(only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[Check]:
    """Return the checks whose id matches one of `only` (all if it is empty) and none of `skip`."""
    for name, patterns in (("only", only), ("skip", skip)):
        for pattern in patterns:
            if not any(fnmatchcase(check.id, pattern) for check in CHECKS):
                raise ParameterError.single(name, pattern, "must be the id of a check, or a pattern such as 'stop.*'")
    wanted = [check for check in CHECKS if not only or any(fnmatchcase(check.id, pattern) for pattern in only)]
    return [check for check in wanted if not any(fnmatchcase(check.id, pattern) for pattern in skip)]


def run_check(check: Check, target: Target) -> Result:
    """Run one check and return its result."""
    started = time.monotonic()

    def result(status: str, evidence: str = "", curl: str = "") -> Result:
        return Result(check.id, check.sentence, check.reason, status, evidence, curl, time.monotonic() - started)

    try:
        check.run(target)
    except NotOfferedError as error:
        return result("not offered", str(error))
    except LoadLimitError as error:
        return result("not run", str(error))
    except (FailedError, NoAnswerError) as error:
        return result("fail", str(error), "" if error.request is None else error.request.curl)
    except BROKEN_SHAPES as error:
        return result("fail", f"an answer is not of the documented shape: {type(error).__name__}: {error}")
    return result("pass")
