"""Checks of requests and answers: their shapes, defaults, and usage."""

from __future__ import annotations

from decoding.conformance.check import Checks
from decoding.conformance.client import Answer
from decoding.conformance.outcome import FailedError, NotOfferedError
from decoding.conformance.target import ABSENT, NUM_TOKENS, Completion, Target, shown

check = Checks()

_FINISH_REASONS = ("stop", "length", "content_filter")

_NULLS = (
    *("max_tokens", "stream", "stop", "temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias"),
    *("logprobs", "n", "best_of", "echo", "seed", "suffix", "user"),
)


@check("shape.object", "A completion is an object with id, object, created, model, choices.", "Clients parse it.")
def _(target: Target) -> None:
    completion = target.complete()
    found = completion.object
    kinds = {"id": str, "object": str, "created": int, "model": str, "choices": list}
    wrong = [name for name, kind in kinds.items() if type(found.get(name)) is not kind]
    completion.require(not wrong, f"missing or of a wrong type: {', '.join(wrong)}")
    completion.require(found["object"] == "text_completion", f"object is {shown(found['object'])}")


@check("shape.ids", "Two completions have different ids.", "Logs and caches are keyed by them.")
def _(target: Target) -> None:
    first, second = target.complete(max_tokens=1), target.complete(max_tokens=1)
    second.require(first.object.get("id") != second.object.get("id"), f"both have the id {first.object.get('id')!r}")


@check("shape.choice", "A choice has index 0, a text and a known finish_reason.", "A client must know why it ended.")
def _(target: Target) -> None:
    completion = target.complete()
    choice = completion.choice
    completion.require(len(completion.choices) == 1, f"{len(completion.choices)} choices where n is absent")
    completion.require(choice.get("index") == 0, f"index is {choice.get('index')!r}")
    reason = choice.get("finish_reason")
    completion.require(reason in _FINISH_REASONS, f"finish_reason is {reason!r}")
    completion.require(isinstance(completion.text, str), "text")


@check("shape.no_logprobs", "logprobs is null where none were asked for.", "Clients test it for null.")
def _(target: Target) -> None:
    completion = target.complete(max_tokens=2)
    found = completion.choice.get("logprobs")
    completion.require(found is None, f"logprobs is {shown(found)}")


@check("shape.content_type", "The answer's type is application/json.", "Proxies and clients choose by it.")
def _(target: Target) -> None:
    completion = target.complete(max_tokens=1)
    found = completion.answer.header("content-type")
    completion.require(found.startswith("application/json"), f"Content-Type is {found!r}")


@check("shape.models", "GET /models lists the model by its name.", "Clients and gateways look there first.")
def _(target: Target) -> None:
    answer = target.client.send(None, path="/models", method="GET")
    if answer.status == 404:
        raise NotOfferedError("GET /models is 404")
    listing = Completion(answer)
    names = [entry.get("id") for entry in listing.object.get("data", [])]
    listing.require(target.model in names, f"{target.model!r} is not among {shown(names)}")


@check("prompt.list", "A list of strings gives a choice for each, in order.", "Batches are sent so.")
def _(target: Target) -> None:
    prompts = [target.prompt, f"{target.prompt} {target.prompt}"]
    alone = [target.complete(prompt=prompt, max_tokens=6).text for prompt in prompts]
    both = target.complete(prompt=prompts, max_tokens=6, needs=["a list of prompts"])
    both.require(len(both.choices) == 2, f"{len(both.choices)} choices for 2 prompts")
    indexes = [choice.get("index") for choice in both.choices]
    both.require(indexes == [0, 1], f"indexes are {indexes}")
    texts = [choice.get("text") for choice in both.choices]
    both.require(texts == alone, f"texts are {shown(texts)}; one by one they were {shown(alone)}")


@check(
    "prompt.ids",
    "A list of token ids is a prompt, taken as it is: no start token is added.",
    "Evaluation harnesses tokenize by themselves.",
)
def _(target: Target) -> None:
    completion = target.complete(prompt=[5, 6, 7], max_tokens=1, needs=["a prompt of token ids"])
    count = completion.usage["prompt_tokens"]
    completion.require(count == 3, f"3 token ids are {count} prompt tokens")


@check(
    "prompt.id_lists", "A list of lists of token ids gives a choice for each.", "Evaluation harnesses send batches so."
)
def _(target: Target) -> None:
    completion = target.complete(prompt=[[5, 6], [7, 8, 9]], max_tokens=1, needs=["a list of lists of token ids"])
    completion.require(len(completion.choices) == 2, f"{len(completion.choices)} choices for 2 prompts")
    count = completion.usage["prompt_tokens"]
    completion.require(count == 5, f"5 token ids are {count} prompt tokens")


@check("default.max_tokens", "Without max_tokens at most 16 tokens come.", "A forgotten field must not cost a context.")
def _(target: Target) -> None:
    completion = target.complete(max_tokens=ABSENT)
    count = completion.usage["completion_tokens"]
    completion.require(count <= 16, f"{count} tokens")
    if completion.choice.get("finish_reason") == "length":
        completion.require(count == 16, f"finish_reason is length after {count} tokens")


@check("default.null", "A field that is null is as if it were absent.", "Typed clients send nulls.")
def _(target: Target) -> None:
    plain = target.complete()
    wrong: list[tuple[str, Answer]] = []
    for name in _NULLS:
        answer = target.client.send(target.body({name: None}))
        if answer.status != 200:
            wrong.append((f"{name}: status {answer.status}", answer))
        elif name not in ("max_tokens", "temperature") and Completion(answer).text != plain.text:
            wrong.append((f"{name}: another text", answer))
    if wrong:
        raise FailedError("; ".join(what for what, _ in wrong), wrong[0][1].request)


@check("max_tokens.exact", "max_tokens tokens come, and then finish_reason is length.", "It is a limit and a promise.")
def _(target: Target) -> None:
    for limit in (1, 5):
        completion = target.complete(max_tokens=limit)
        count, reason = completion.usage["completion_tokens"], completion.choice.get("finish_reason")
        completion.require(count <= limit, f"{count} tokens at max_tokens {limit}")
        right = reason == ("length" if count == limit else "stop") or (count == limit and reason == "stop")
        completion.require(right, f"finish_reason is {reason!r} after {count} of {limit} tokens")


@check("max_tokens.prefix", "A shorter completion is the beginning of a longer one.", "The limit only cuts.")
def _(target: Target) -> None:
    short = target.complete(max_tokens=NUM_TOKENS // 2)
    whole, beginning = target.text, short.text.rstrip("\ufffd")
    short.require(whole.startswith(beginning), f"{shown(beginning)} does not begin {shown(whole)}")


@check("usage.total", "usage adds up: prompt + completion = total.", "It is what people pay by.")
def _(target: Target) -> None:
    completion = target.complete()
    usage = completion.usage
    right = usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    completion.require(right and usage["prompt_tokens"] > 0, f"usage is {shown(usage)}")


@check("usage.tokens", "completion_tokens counts the sampled tokens.", "It is what people pay by.")
def _(target: Target) -> None:
    completion = target.complete(logprobs=1, needs=["logprobs"])
    entries, count = len(completion.logprobs["tokens"]), completion.usage["completion_tokens"]
    ended = completion.choice.get("finish_reason") == "stop"  # the token that ended it may have no entry
    completion.require(entries <= count <= entries + ended, f"{entries} entries of logprobs, {count} tokens")


@check(
    "usage.choices",
    "With n = 2 the prompt is counted once, the tokens of both choices.",
    "The prompt is computed once for all choices.",
)
def _(target: Target) -> None:
    one = target.complete(max_tokens=3)
    two = target.complete_choices(2, max_tokens=3)
    prompts = (one.usage["prompt_tokens"], two.usage["prompt_tokens"])
    two.require(prompts[0] == prompts[1], f"prompt_tokens are {prompts[1]}, with n = 1 {prompts[0]}")
    counts = (one.usage["completion_tokens"], two.usage["completion_tokens"])
    two.require(counts[1] == 2 * counts[0], f"completion_tokens are {counts[1]}, with n = 1 {counts[0]}, greedy")
