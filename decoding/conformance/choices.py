"""Checks of several choices, seeds, and best_of."""

from __future__ import annotations

from typing import Any

from decoding.conformance.check import Checks
from decoding.conformance.outcome import FailedError, NotOfferedError
from decoding.conformance.target import Completion, Target, shown

check = Checks()

_WARM: dict[str, Any] = {"temperature": 1, "max_tokens": 12}


def _texts(completion: Completion) -> list[str]:
    return [str(choice.get("text")) for choice in completion.choices]


@check("n.count", "n choices come, with indexes 0 to n - 1.", "They are asked for by number.")
def _(target: Target) -> None:
    completion = target.complete(n=3, needs=["n"])
    indexes = [choice.get("index") for choice in completion.choices]
    completion.require(indexes == [0, 1, 2], f"indexes are {indexes}")


@check("n.differ", "The choices of one request are drawn independently.", "n equal ones are worth one.")
def _(target: Target) -> None:
    variants: tuple[dict[str, Any], ...] = ({}, {"seed": 7})
    for fields in variants:
        completion = target.complete_choices(4, temperature=1.5, max_tokens=16, **fields)
        texts = _texts(completion)
        completion.require(len(set(texts)) > 1, f"all {len(texts)} are {shown(texts[0])}")


@check("n.greedy", "At temperature 0 all n choices are the same.", "Greedy has no chance in it.")
def _(target: Target) -> None:
    completion = target.complete_choices(3)
    texts = _texts(completion)
    completion.require(set(texts) == {target.greedy.text}, f"texts are {shown(texts)}")


@check("n.prompts", "Of several prompts, choice j of prompt i has index i * n + j.", "That is how they are told apart.")
def _(target: Target) -> None:
    prompts = [target.prompt, f"{target.prompt} {target.prompt}"]
    alone = [target.complete(prompt=prompt, max_tokens=4).text for prompt in prompts]
    both = target.complete_choices(2, prompt=prompts, max_tokens=4)
    found = {choice.get("index"): choice.get("text") for choice in both.choices}
    expected = {0: alone[0], 1: alone[0], 2: alone[1], 3: alone[1]}
    both.require(found == expected, f"texts by index are {shown(found)}, not {shown(expected)}")


@check("seed.repeats", "The same seed gives the same text.", "Replaying is what a seed is for.")
def _(target: Target) -> None:
    texts = {target.complete(seed=11, **_WARM, needs=["seed"]).text for _ in range(3)}
    if len(texts) > 1:
        raise FailedError(f"three times seed 11: {shown(sorted(texts))}", target.complete(seed=11, **_WARM).request)


@check("seed.differs", "Other seeds give other texts.", "Else the seed is a switch, not a number.")
def _(target: Target) -> None:
    seeds = (1, 2, 3, 2**32 + 1, -1)
    completions = [target.complete(seed=seed, temperature=1.5, max_tokens=16, needs=["seed"]) for seed in seeds]
    texts = [completion.text for completion in completions]
    completions[0].require(len(set(texts)) > 1, f"5 seeds, and always {shown(texts[0])}")
    completions[3].require(texts[0] != texts[3], f"seeds 1 and 2**32 + 1 both give {shown(texts[0])}")


@check("seed.range", "Seeds are signed 64-bit integers.", "The API says so, and hashes are used for them.")
def _(target: Target) -> None:
    target.complete(seed=1, max_tokens=1, needs=["seed"])
    for seed in (-1, 2**63 - 1, -(2**63)):
        answer = target.client.send(target.body({"seed": seed, "max_tokens": 1}))
        if answer.status != 200:
            raise FailedError(f"seed {seed}: status {answer.status} {shown(answer.text)}", answer.request)


@check("seed.absent", "Without a seed two requests are drawn independently.", "A fixed default makes samples copies.")
def _(target: Target) -> None:
    completions = [target.complete(temperature=1.5, max_tokens=24) for _ in range(3)]
    texts = [completion.text for completion in completions]
    completions[0].require(len(set(texts)) > 1, f"three times {shown(texts[0])}")


@check("best_of.best", "best_of returns the candidate of the highest mean log-probability.", "That is what best means.")
def _(target: Target) -> None:
    fields: dict[str, Any] = {"seed": 5, "temperature": 1.2, "max_tokens": 6, "logprobs": 1}
    all_of_them = target.complete_choices(4, **fields)
    if {choice.get("finish_reason") for choice in all_of_them.choices} != {"length"}:
        raise NotOfferedError("a candidate ended early, and its last token is not in logprobs")
    scores = {}
    for choice in all_of_them.choices:
        logprobs = all_of_them.logprobs_of(choice)["token_logprobs"]
        scores[str(choice.get("text"))] = sum(logprobs) / len(logprobs)
    best = target.complete(n=1, best_of=4, **fields, needs=["best_of"])
    if best.text not in scores:
        raise NotOfferedError("candidates of best_of are not the choices of n under the same seed")
    right = scores[best.text] >= max(scores.values()) - 1e-4
    best.require(right, f"returns {shown(best.text)}; mean log-probabilities are {shown(scores)}")


@check("best_of.usage", "usage counts the tokens of all candidates.", "They were computed, and somebody pays.")
def _(target: Target) -> None:
    one = target.complete(max_tokens=3)
    three = target.complete(max_tokens=3, best_of=3, needs=["best_of"])
    three.require(len(three.choices) == 1, f"{len(three.choices)} choices where n is absent")
    count, expected = three.usage["completion_tokens"], 3 * one.usage["completion_tokens"]
    three.require(count == expected, f"completion_tokens are {count}, not {expected}")


@check("best_of.less", "best_of below n is refused.", "There are not enough candidates.")
def _(target: Target) -> None:
    target.complete(max_tokens=1, best_of=2, needs=["best_of"])
    answer = target.client.send(target.body({"max_tokens": 1, "n": 2, "best_of": 1}))
    if not 400 <= answer.status < 500:
        raise FailedError(f"n=2, best_of=1: status {answer.status}", answer.request)


@check("best_of.stream", "best_of above n cannot be streamed.", "The best is not known before the end.")
def _(target: Target) -> None:
    target.complete(max_tokens=1, best_of=2, needs=["best_of"])
    answer = target.client.send(target.body({"max_tokens": 1, "n": 1, "best_of": 2, "stream": True}))
    if not 400 <= answer.status < 500:
        raise FailedError(f"best_of=2 with stream: status {answer.status}", answer.request)
