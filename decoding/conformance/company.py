"""Checks of concurrency: the same request alone and among others, and clients that disconnect."""

from __future__ import annotations

import time

from decoding.conformance.check import Checks
from decoding.conformance.client import NoAnswerError
from decoding.conformance.outcome import FailedError
from decoding.conformance.stream import abandon_stream
from decoding.conformance.target import Target, shown

check = Checks()

LONG = 256
"""Tokens of a stream that is abandoned; with a short prompt they fit any context."""

PATIENCE = 3.0
"""Seconds that abandoned streams may delay others, in addition to thirty times a short request's own time."""


@check("greedy.repeats", "At temperature 0 the same request gives the same text.", "Tests and caches rely on it.")
def _(target: Target) -> None:
    for _ in range(3):
        completion = target.complete()
        right = completion.text == target.greedy.text
        completion.require(right, f"{shown(completion.text)}, before it was {shown(target.greedy.text)}")


@check("greedy.company", "A greedy text does not depend on what else is asked at the time.", "Batches must not leak.")
def _(target: Target) -> None:
    _require_same_in_company(target, {})


@check(
    "seed.company",
    "A seeded text does not depend on requests without a seed beside it.",
    "A batch-mate without a seed made others lose theirs (vllm#51226).",
)
def _(target: Target) -> None:
    _require_same_in_company(target, {"seed": 3, "temperature": 1, "needs": ["seed"]})


def _require_same_in_company(target: Target, fields: dict[str, object]) -> None:
    alone = target.complete(**fields)  # type: ignore[arg-type]
    words = ("sun", "rain", "snow", "wind", "fog", "ice", "dew")
    others = [{"prompt": f"{word} {target.prompt}", "temperature": 1.3} for word in words]
    for place in (0, 3, 7):
        requests = [*others[:place], fields, *others[place:]]
        completion = target.complete_all(requests)[place]
        right = completion.text == alone.text
        completion.require(right, f"{shown(completion.text)} in company, {shown(alone.text)} alone")


@check("cancel.stream", "A stream whose reader has gone is given up.", "Abandoned work holds up everybody else.")
def _(target: Target) -> None:
    started = time.monotonic()
    target.complete(max_tokens=1)
    limit = PATIENCE + 30 * (time.monotonic() - started)
    count = 2 * target.client.load.concurrency
    deadline = time.monotonic() + limit
    try:
        for _ in range(count):
            abandon_stream(target, max_tokens=LONG, temperature=1, timeout=_left(deadline))
        answer = target.client.send(target.body({"max_tokens": 1}), timeout=_left(deadline))
    except NoAnswerError as error:
        evidence = f"{count} abandoned streams and a short request took more than {limit:.1f} s: {error}"
        raise FailedError(evidence, error.request) from error
    target.require_ok(answer)


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())


@check("cancel.alive", "After abandoned streams the server answers as before.", "What they held must be free again.")
def _(target: Target) -> None:
    for _ in range(target.client.load.concurrency):
        abandon_stream(target, max_tokens=8)
    completion = target.complete()
    right = completion.text == target.greedy.text
    completion.require(right, f"{shown(completion.text)}, before it was {shown(target.greedy.text)}")
