"""Statistical checks: tokens that a server samples, compared with the log-probabilities that it reports.

Requests carry seeds, so that a server that honours them gets the same verdict every time.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from decoding.conformance.check import Checks
from decoding.conformance.outcome import FailedError, NotOfferedError
from decoding.conformance.target import ABSENT, Target, shown
from decoding.testing.assertions import assert_distribution, assert_independent

check = Checks()

CHOICES_A_REQUEST = 16
FIRST_SEED = 1000
FEWEST = 80
"""Minimum number of draws among the most likely tokens; with fewer there is no verdict."""

CERTAIN = 14.0
"""Expected draws of a token from which never drawing it is a failure: the chance of that is exp(-14)."""

OTHERS = "(others)"


class FirstTokens:
    """First tokens of many choices, and the log-probabilities that were reported for that position."""

    def __init__(self, target: Target, prompt: str | None = None, **fields: Any) -> None:
        """Draw target.num_draws of them, of one request after another; of a server that ignores n, a quarter."""
        common = {
            "prompt": prompt or target.open_prompt,
            "max_tokens": 1,
            "logprobs": 5,
            "n": CHOICES_A_REQUEST,
            **fields,
        }
        common["needs"] = ["n", "logprobs", *fields]
        self.first = target.complete(**common, seed=FIRST_SEED)
        self.choices_a_request = len(self.first.choices)
        wanted = target.num_draws if self.choices_a_request > 1 else target.num_draws // 4
        seeds = range(FIRST_SEED + 1, FIRST_SEED + -(-wanted // max(1, self.choices_a_request)))
        completions = [self.first, *target.complete_all([{**common, "seed": seed} for seed in seeds])]
        self.tokens: list[str] = []  # in the order of requests and choices; "" where none came
        self.reported: dict[str, float] = {}
        for completion in completions:
            for choice in completion.choices:
                self._add(completion.logprobs_of(choice))

    def _add(self, logprobs: dict[str, list[Any]]) -> None:
        token = logprobs["tokens"][0] if logprobs["tokens"] else ""
        self.tokens.append(token)
        if token:
            top = dict(logprobs["top_logprobs"][0] or {})
            top.pop(token, None)  # the drawn one may stand there beside the five most likely
            self.reported |= top | {token: logprobs["token_logprobs"][0]}

    def cells(self, power: float) -> tuple[list[str], list[float]]:
        """Return names and probabilities of the most likely tokens and of the rest, at a temperature of 1 / power.

        At another temperature than 1 only the shares among the most likely are known, so the rest has none.
        """
        likely = sorted(self.reported, key=lambda token: -self.reported[token])[:5]
        if "" in self.tokens:  # an ending has no entry: whichever of the most likely it is, it was never drawn
            likely = [token for token in likely if token in self.tokens]
        chances = [math.exp(power * self.reported[token]) for token in likely]
        if power == 1:
            return [*likely, OTHERS], [*chances, max(0.0, 1 - sum(chances))]
        return likely, chances

    def require_fit(self, power: float = 1.0) -> None:
        """Fail unless the tokens fit what was reported."""
        names, chances = self.cells(power)
        places = {name: place for place, name in enumerate(names)}
        draws = [places.get(token, places.get(OTHERS)) for token in self.tokens]
        known = [draw for draw in draws if draw is not None]
        if len(known) < FEWEST:
            raise NotOfferedError(f"{len(known)} draws are among the most likely tokens, too few to judge")
        try:
            assert_distribution(known, chances)
        except AssertionError as error:
            counts = Counter(names[draw] for draw in known)
            expected = {n: round(c / sum(chances) * len(known), 1) for n, c in zip(names, chances, strict=True)}
            self.first.fail(f"drawn {shown(dict(counts))}, reported {shown(expected)}: {error}")


@check(
    "draws.plain", "First tokens are drawn with the probabilities that are reported.", "Else neither can be trusted."
)
def _(target: Target) -> None:
    FirstTokens(target, temperature=1, top_p=1).require_fit()


@check("draws.default", "Without a temperature it is 1, without top_p all tokens can come.", "Defaults are documented.")
def _(target: Target) -> None:
    FirstTokens(target, temperature=ABSENT, top_p=ABSENT).require_fit()


@check("draws.temperature", "At temperature 0.5 probabilities are squared.", "It divides logits, not something else.")
def _(target: Target) -> None:
    FirstTokens(target, temperature=0.5, top_p=1).require_fit(power=2.0)


@check(
    "draws.top_p",
    "top_p draws from the nucleus alone, the token that crosses p included.",
    "A token outside of it was asked not to come.",
)
def _(target: Target) -> None:
    for prompt in (target.open_prompt, target.prompt):
        plain = FirstTokens(target, prompt, temperature=1, top_p=1)
        names, chances = plain.cells(1.0)
        often = [place for place in range(len(names) - 1) if chances[place] * len(plain.tokens) >= CERTAIN]
        if often and chances[-1] >= 0.01:
            break
    else:
        raise NotOfferedError("the model is too sure of its first token, or too unsure")
    place = often[-1]
    top_p = round(sum(chances[:place]) + 0.5 * chances[place], 4)  # crossed in the middle of a token
    drawn = FirstTokens(target, prompt, temperature=1, top_p=top_p)
    found, nucleus = set(drawn.tokens), set(names[: place + 1])
    drawn.first.require(found <= nucleus, f"top_p {top_p} draws {shown(sorted(found - nucleus))}")
    drawn.first.require(nucleus <= found, f"top_p {top_p} never draws {shown(sorted(nucleus - found))}")


@check(
    "draws.independent",
    "Choices of one request, and of neighbouring seeds, do not depend on each other.",
    "n samples must be worth n.",
)
def _(target: Target) -> None:
    drawn = FirstTokens(target, temperature=1.5)
    if drawn.choices_a_request != CHOICES_A_REQUEST:
        raise NotOfferedError(f"n is ignored: choices of a request are {drawn.choices_a_request}")
    whole = len(drawn.tokens) // CHOICES_A_REQUEST * CHOICES_A_REQUEST
    names, numbers = np.unique(drawn.tokens[:whole], return_inverse=True)
    if len(names) < 2 or whole < 160:
        raise NotOfferedError("too few different first tokens, or too few draws")
    shares = np.bincount(numbers) / whole
    table = numbers.reshape(-1, CHOICES_A_REQUEST)
    for what, draws in (("choices of a request", table), ("neighbouring seeds", table.T[:, : len(table) // 2 * 2])):
        try:
            assert_independent(draws, shares)
        except AssertionError as error:
            raise FailedError(f"{what}: {error}", drawn.first.request) from None


@check(
    "bias.forces",
    "A bias of 100 makes a token all but certain, one of -100 all but impossible.",
    "Classifiers are built on it.",
)
def _(target: Target) -> None:
    fields = {"n": 4, "max_tokens": 1, "temperature": 1}
    tokens = set()
    for token_id in ("10", "20", "30"):
        completion = target.complete(**fields, logit_bias={token_id: 100}, needs=["logit_bias", "n"])
        texts = {str(choice.get("text")) for choice in completion.choices}
        completion.require(len(texts) == 1, f"with token {token_id} at 100 the texts are {shown(sorted(texts))}")
        tokens |= texts
    completion.require(len(tokens) > 1, f"tokens 10, 20 and 30 at 100 all give {shown(sorted(tokens))}")
