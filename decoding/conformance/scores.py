"""Checks of log-probabilities and echo, on which evaluation harnesses depend."""

from __future__ import annotations

import math

from decoding.conformance.check import Checks
from decoding.conformance.outcome import NotOfferedError
from decoding.conformance.target import Completion, Target, shown

check = Checks()

SCORE_TOLERANCE = 0.05
"""Maximum difference of a log-probability between prefill and decoding, whose 16-bit matmuls round differently."""


def _scored(target: Target, **fields: object) -> Completion:
    return target.complete(**{"logprobs": 3, **fields}, needs=["logprobs", *fields])


def _is_text(token: str) -> bool:
    """Return True if an entry of `tokens` is text by itself, not the bytes of half a character."""
    return not token.startswith("bytes:") and "\ufffd" not in token


@check("logprobs.columns", "The columns of logprobs have one entry for each token.", "They are read side by side.")
def _(target: Target) -> None:
    completion = _scored(target)
    lengths = {name: len(column) for name, column in completion.logprobs.items() if isinstance(column, list)}
    completion.require(len(set(lengths.values())) == 1, f"lengths are {shown(lengths)}")
    completion.require(lengths["tokens"] > 0, "there are no entries")


@check(
    "logprobs.text", "The tokens of logprobs, joined, are the text.", "Each score is shown beside its piece of text."
)
def _(target: Target) -> None:
    completion = _scored(target)
    tokens = completion.logprobs["tokens"]
    if not all(map(_is_text, tokens)):
        raise NotOfferedError("the greedy completion has tokens that are not text by themselves")
    completion.require("".join(tokens) == completion.text, f"{shown(tokens)} for {shown(completion.text)}")


@check(
    "logprobs.offsets",
    "text_offset says where each token begins, counted from the prompt's start.",
    "Spans of a text are found by them.",
)
def _(target: Target) -> None:
    completion = _scored(target)
    whole = target.prompt + completion.text
    offsets = completion.logprobs["text_offset"]
    for token, offset in zip(completion.logprobs["tokens"], offsets, strict=False):
        there = whole[offset : offset + len(token)]
        right = not _is_text(token) or there == token
        completion.require(right, f"offset {offset} is that of {shown(token)}, but {shown(there)} is there")


@check(
    "logprobs.top",
    "Each entry has the N most likely tokens, the chosen one among them or besides.",
    "The rivals of a token are read there.",
)
def _(target: Target) -> None:
    completion = _scored(target)
    for top, token in zip(completion.logprobs["top_logprobs"], completion.logprobs["tokens"], strict=False):
        completion.require(isinstance(top, dict), f"an entry of top_logprobs is {shown(top)}")
        completion.require(1 <= len(top) <= 4, f"{len(top)} entries where 3 were asked for: {shown(top)}")
        completion.require(token in top, f"the chosen {shown(token)} is not in {shown(top)}")


@check("logprobs.zero", "logprobs 0 reports the chosen tokens alone.", "0 is a number, not false.")
def _(target: Target) -> None:
    completion = target.complete(logprobs=0, needs=["logprobs"])
    found = completion.choice.get("logprobs")
    completion.require(found is not None, "logprobs is null")
    tops = [top for top in completion.logprobs["top_logprobs"] if top]
    completion.require(all(len(top) <= 1 for top in tops), f"top_logprobs are {shown(tops)}")


@check(
    "logprobs.same",
    "The chosen token's logprob equals its own entry in top_logprobs, bit for bit.",
    "It is tested for.",
)
def _(target: Target) -> None:
    completion = _scored(target)
    columns = (completion.logprobs[name] for name in ("tokens", "token_logprobs", "top_logprobs"))
    for token, logprob, top in zip(*columns, strict=False):
        both = (logprob, (top or {}).get(token))
        completion.require(both[0] == both[1], f"{shown(token)} has {both[0]!r} and {both[1]!r}")


@check(
    "logprobs.values",
    "Log-probabilities are numbers <= 0, and the top ones add up to no more than 1.",
    "They are the logarithms of a distribution.",
)
def _(target: Target) -> None:
    completion = _scored(target)
    for logprob, top in zip(*(completion.logprobs[n] for n in ("token_logprobs", "top_logprobs")), strict=False):
        values = [logprob, *top.values()]
        right = all(isinstance(value, (int, float)) and value <= 1e-6 for value in values)
        completion.require(right, f"log-probabilities are {shown(values)}")
        mass = sum(math.exp(value) for value in top.values())
        completion.require(mass <= 1 + 1e-3, f"{shown(top)} has a mass of {mass}")


@check("logprobs.greedy", "At temperature 0 the chosen token is the most likely one.", "That is what greedy means.")
def _(target: Target) -> None:
    completion = _scored(target)
    for logprob, top in zip(*(completion.logprobs[n] for n in ("token_logprobs", "top_logprobs")), strict=False):
        completion.require(logprob >= max(top.values()) - 2e-3, f"chosen at {logprob}, the best of {shown(top)}")


@check("logprobs.raw", "Log-probabilities are the model's, whatever the temperature and top_p.", "Scores must compare.")
def _(target: Target) -> None:
    plain = _first_top(_scored(target, max_tokens=1))
    for fields in ({"temperature": 0.5, "seed": 1}, {"temperature": 2, "seed": 1}, {"top_p": 0.1}):
        completion = _scored(target, max_tokens=1, **fields)
        _require_close(completion, plain, _first_top(completion), f"with {shown(fields)}")


@check("logprobs.bias", "Log-probabilities are those before logit_bias.", "A ban of one must not move the others.")
def _(target: Target) -> None:
    plain = _first_top(_scored(target, max_tokens=1))
    completion = _scored(target, max_tokens=1, logit_bias={"5": 100})
    _require_close(completion, plain, _first_top(completion), "with a bias on token 5")


def _first_top(completion: Completion) -> dict[str, float]:
    tops = completion.logprobs["top_logprobs"]
    completion.require(len(tops) > 0 and isinstance(tops[0], dict), f"top_logprobs are {shown(tops)}")
    return dict(tops[0])


def _require_close(completion: Completion, plain: dict[str, float], top: dict[str, float], where: str) -> None:
    shared = {token for token in plain if token in top}
    off = max((abs(plain[token] - top[token]) for token in shared), default=math.inf)
    completion.require(off <= SCORE_TOLERANCE, f"{where} they are {shown(top)}, without {shown(plain)}")


@check("echo.text", "echo puts the prompt before the completion.", "Prompt and completion are scored as one text.")
def _(target: Target) -> None:
    completion = target.complete(echo=True, needs=["echo"])
    right = completion.text == target.prompt + target.greedy.text
    completion.require(right, f"{shown(completion.text)}, not {shown(target.prompt + target.greedy.text)}")


@check(
    "echo.logprobs",
    "With echo the prompt's tokens have entries; the first has null.",
    "Nothing predicts the first token, and a zero would be a lie.",
)
def _(target: Target) -> None:
    completion = target.complete(echo=True, logprobs=1, max_tokens=2, needs=["echo", "logprobs"])
    logprobs, count = completion.logprobs, completion.usage["total_tokens"]
    completion.require(
        len(logprobs["tokens"]) in (count, count - 1), f"{len(logprobs['tokens'])} entries, {count} tokens"
    )
    first = (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0])
    completion.require(first == (None, None), f"the first entry is {shown(first)}")
    rest = logprobs["token_logprobs"][1:]
    completion.require(all(isinstance(value, (int, float)) for value in rest), f"entries are {shown(rest)}")


@check(
    "echo.score", "echo with max_tokens 0 scores the prompt and generates nothing.", "Evaluation harnesses score so."
)
def _(target: Target) -> None:
    completion = target.complete(echo=True, logprobs=1, max_tokens=0, needs=["echo", "logprobs", "max_tokens 0"])
    completion.require(completion.text == target.prompt, f"the text is {shown(completion.text)}")
    count = completion.usage["completion_tokens"]
    completion.require(count == 0, f"{count} completion tokens")
    reason = completion.choice.get("finish_reason")
    completion.require(reason == "length", f"finish_reason is {reason!r}")


@check(
    "echo.agrees",
    "Text scored as a prompt has the log-probabilities with which it was generated.",
    "Evaluations compare the two.",
)
def _(target: Target) -> None:
    made = target.complete(echo=True, logprobs=1, max_tokens=8, needs=["echo", "logprobs"])
    scored = target.complete(
        prompt=made.text, echo=True, logprobs=1, max_tokens=0, needs=["echo", "logprobs", "max_tokens 0"]
    )
    if made.logprobs["tokens"] != scored.logprobs["tokens"]:
        raise NotOfferedError("the text has other tokens as a prompt than when it was generated")
    pairs = zip(made.logprobs["token_logprobs"], scored.logprobs["token_logprobs"], strict=True)
    off = [(one, other) for one, other in pairs if None not in (one, other) and abs(one - other) > SCORE_TOLERANCE]
    scored.require(not off, f"generated and scored: {shown(off)}")
