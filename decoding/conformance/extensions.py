"""Checks of extensions of the API, which a server need not offer: token healing, loop stop, scores of chosen ids."""

from __future__ import annotations

import math
from typing import Any

from decoding.conformance.check import Checks
from decoding.conformance.outcome import NotOfferedError
from decoding.conformance.target import Completion, Target, shown

check = Checks()

_COUNT = 4
_PATTERNS = {"max_pattern_size": 2, "min_pattern_size": 1, "min_count": _COUNT}
_FORCED = {"20": 100}
"""A bias that makes one token certain, so that the text repeats itself."""


def _cut_prompt(target: Target) -> str:
    """Return a prompt that ends inside a token: the usual one and the greedy text up to the middle of a token."""
    text = target.prompt
    for token in target.tokens:
        if len(token) > 1 and token.isascii() and token.isalpha():
            return text + token[:-1]
        text += token
    raise NotOfferedError("the greedy completion has no token of several letters")


@check(
    "healing.text",
    "With token_healing the text goes on where the prompt ends.",
    "Editors put it behind the cursor.",
)
def _(target: Target) -> None:
    prompt = _cut_prompt(target)
    fields: dict[str, Any] = {"prompt": prompt, "token_healing": True}
    completion = target.complete(**fields, needs=["token_healing"])
    echoed = target.complete(**fields, echo=True, needs=["token_healing", "echo"])
    expected = prompt + completion.text
    echoed.require(echoed.text == expected, f"{shown(expected)} with echo is {shown(echoed.text)}")


@check(
    "healing.tokens",
    "With token_healing the first tokens spell the end of a prompt that ends inside a token.",
    "A word that is cut there goes on as another.",
)
def _(target: Target) -> None:
    prompt = _cut_prompt(target)
    completion = target.complete(prompt=prompt, token_healing=True, logprobs=1, needs=["token_healing", "logprobs"])
    tokens = [str(token) for token in completion.logprobs["tokens"]]
    spelled = "".join(tokens)
    healed = spelled.removesuffix(completion.text)
    is_end = bool(healed) and prompt.endswith(healed) and spelled.endswith(completion.text)
    evidence = f"after {shown(prompt[-20:])} the tokens {shown(tokens[:4])} spell nothing of its end"
    completion.require(is_end, evidence)


def _repeated(target: Target, **fields: Any) -> Completion:
    """Return a completion that repeats one token, with three times as many tokens as detection needs."""
    return target.complete(logit_bias=_FORCED, max_tokens=3 * _COUNT, **fields)


@check(
    "loop.stop",
    "repetition_detection ends a text with its min_count-th repetition: finish_reason stop.",
    "A loop costs tokens up to the limit.",
)
def _(target: Target) -> None:
    without = _repeated(target, needs=["logit_bias"])
    if without.choice.get("finish_reason") != "length":
        raise NotOfferedError("token 20 ends a text")
    completion = _repeated(target, repetition_detection=_PATTERNS, needs=["repetition_detection"])
    reason, count = completion.choice.get("finish_reason"), completion.usage["completion_tokens"]
    found = f"finish_reason {reason!r} after {count} equal tokens"
    completion.require((reason, count) == ("stop", _COUNT), f"{found}, with min_count {_COUNT}")


@check(
    "loop.other",
    "repetition_detection changes no text that does not repeat itself.",
    "It is left on for all requests.",
)
def _(target: Target) -> None:
    patterns = {**_PATTERNS, "min_count": 1000}
    completion = target.complete(repetition_detection=patterns, needs=["repetition_detection"])
    same = completion.text == target.greedy.text
    completion.require(same, f"{shown(target.greedy.text)} becomes {shown(completion.text)}")


def _chosen(target: Target, token_ids: list[int]) -> tuple[Completion, list[Any]]:
    """Return the greedy completion and its log-probabilities of these ids, one mapping per token."""
    fields: dict[str, Any] = {"logprobs": 0, "logprob_token_ids": token_ids}
    completion = target.complete(**fields, needs=["logprob_token_ids", "logprobs"])
    return completion, list(completion.logprobs["by_token_id"])


@check(
    "chosen.columns",
    "by_token_id has a log-probability of every id of logprob_token_ids at each token.",
    "Classifiers compare their labels' ids.",
)
def _(target: Target) -> None:
    ids = [10, 20, 30]
    completion, columns = _chosen(target, ids)
    completion.require(
        len(columns) == len(completion.logprobs["tokens"]) and all(set(one) == set(map(str, ids)) for one in columns),
        f"by_token_id of ids {ids} is {shown(columns)}",
    )
    sums = [sum(math.exp(value) for value in one.values()) for one in columns]
    completion.require(max(sums) <= 1 + 1e-4, f"probabilities of {ids} add up to {shown(max(sums))}")


@check(
    "chosen.same",
    "A chosen id that is the sampled token has the token's log-probability.",
    "Both are of one distribution.",
)
def _(target: Target) -> None:
    sampled = target.complete(logprobs=0, needs=["logprobs"]).choice.get("token_ids")
    if not sampled:
        raise NotOfferedError("choices have no token_ids")
    completion, columns = _chosen(target, sorted(set(sampled)))
    for token_id, logprob, one in zip(sampled, completion.logprobs["token_logprobs"], columns, strict=False):
        value = one.get(str(token_id))
        completion.require(value == logprob, f"token {token_id} has logprob {logprob}, and {value} as a chosen id")
