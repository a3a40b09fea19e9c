"""Checks of stop strings: a text ends at a stop string, wherever its tokens end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from decoding.conformance.check import Checks
from decoding.conformance.outcome import NotOfferedError
from decoding.conformance.stream import read_stream
from decoding.conformance.target import NUM_TOKENS, Completion, Target, shown

check = Checks()


_LETTERS = "\u201cHi, Ren\u00e9!\u201d said Zo\u00eb. \u201cHi, Zo\u00eb!\u201d said Ren\u00e9. \u201c"
"""A prompt that invites characters of several bytes."""


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string: the one that ends first, of these the one that begins first."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(found)[1]] if found else text


def _require_cut(target: Target, stop: str | list[str], text: str | None = None, **fields: Any) -> Completion:
    """Fail unless the completion with this stop string is the completion without it, cut before it."""
    text = target.text if text is None else text
    expected = cut_at(text, [stop] if isinstance(stop, str) else stop)
    completion = target.complete(stop=stop, **fields)
    right = completion.text == expected
    completion.require(right, f"stop {shown(stop)} in {shown(text)} leaves {shown(completion.text)}")
    return completion


def _places(target: Target) -> list[tuple[int, str]]:
    """Return the offsets of the tokens of the greedy completion in its text, as far as they are text by themselves."""
    places, start = [], 0
    for token in target.tokens:
        if not target.text.startswith(token, start):
            break
        places.append((start, token))
        start += len(token)
    return places


@check("stop.cut", "A text ends before its stop string, which is not in it.", "Parsers take the text as it is.")
def _(target: Target) -> None:
    middle = len(target.text) // 2
    _require_cut(target, target.text[middle : middle + 2])


@check("stop.reason", "A text that a stop string ended has finish_reason stop.", "Length means: ask for more.")
def _(target: Target) -> None:
    middle = len(target.text) // 2
    completion = _require_cut(target, target.text[middle : middle + 2])
    reason = completion.choice.get("finish_reason")
    completion.require(reason == "stop", f"finish_reason is {reason!r}")


@check(
    "stop.start", "A stop string at the very start leaves an empty text.", "An empty text is an answer, not an error."
)
def _(target: Target) -> None:
    completion = _require_cut(target, target.text[:2])
    completion.require(completion.text == "", f"the text is {shown(completion.text)}")


@check("stop.across", "A stop string that begins in one token and ends in another is found.", "Tokens are no words.")
def _(target: Target) -> None:
    for start, token in _places(target):
        stop = target.text[start - 1 : start + 1]
        if token and start > 0 and target.text.find(stop) == start - 1:
            _require_cut(target, stop)
            return
    raise NotOfferedError("the greedy completion has no border of two tokens whose characters do not occur earlier")


@check("stop.inside", "A stop string inside one token is found.", "The text is cut there, not the token.")
def _(target: Target) -> None:
    for start, token in _places(target):
        if len(token) >= 3 and target.text.find(token[1:-1]) == start + 1:
            _require_cut(target, token[1:-1])
            return
    raise NotOfferedError(
        "the greedy completion has no token of three characters whose middle one does not occur earlier"
    )


@check(
    "stop.earliest",
    "Of several stop strings the one that ends first wins, in whatever order.",
    "The order of a list must not matter.",
)
def _(target: Target) -> None:
    early, late = target.text[3:5], target.text[-3:-1]
    for stops in ([early, late], [late, early]):
        _require_cut(target, stops)


@check("stop.overlap", "Of overlapping stop strings the one that ends first wins.", "A stream has to stop right there.")
def _(target: Target) -> None:
    text = target.text
    for stops in ([text[2:7], text[3:5]], [text[3:5], text[2:7]], [text[2:4] + "\x03", text[3:6]]):
        _require_cut(target, stops)


@check("stop.four", "Four stop strings are taken.", "The API says: up to four.")
def _(target: Target) -> None:
    middle = len(target.text) // 2
    _require_cut(target, ["\x03", "\x04", "\x05", target.text[middle : middle + 2]])


@check(
    "stop.none",
    "An empty list of stop strings, and one that never comes, change nothing.",
    "Clients send empty lists for none.",
)
def _(target: Target) -> None:
    for stops in ([], ["\x03\x04"]):
        completion = target.complete(stop=stops)
        completion.require(completion.text == target.greedy.text, f"stop {shown(stops)}: {shown(completion.text)}")


@check("stop.prompt", "A stop string in the prompt ends nothing.", "Few-shot prompts are full of them.")
def _(target: Target) -> None:
    stop = target.prompt[-4:]
    text = target.greedy.text
    completion = target.complete(stop=[stop])
    completion.require(completion.text == cut_at(text, [stop]), f"stop {shown(stop)}: {shown(completion.text)}")


@check("stop.multibyte", "A stop string of several bytes is found.", "Most languages are written so.")
def _(target: Target) -> None:
    for seed in range(8):
        prompt = _LETTERS if seed % 2 else target.prompt
        fields: dict[str, Any] = {"prompt": prompt, "temperature": 1.5, "seed": seed, "max_tokens": 2 * NUM_TOKENS}
        whole = target.complete(**fields, needs=["seed"]).text
        letters = [letter for letter in whole if ord(letter) > 127 and letter != "\ufffd"]
        if letters:
            if target.complete(**fields).text != whole:
                raise NotOfferedError("seeds do not repeat, so there is nothing to compare with")
            _require_cut(target, letters[-1], whole, **fields)
            return
    raise NotOfferedError("the model wrote no character of several bytes in 8 completions")


@check("stop.stream", "A stream never shows any of a stop string, nor takes text back.", "What is shown is read.")
def _(target: Target) -> None:
    middle = len(target.text) // 2
    for stop in ([target.text[middle : middle + 5]], [target.text[middle : middle + 3] + "\x03"]):
        stream = read_stream(target, stop=stop)
        expected = cut_at(target.greedy.text, stop)
        stream.require(stream.text() == expected, f"stop {shown(stop)}: {shown(stream.text())}")
        for name in ("stop", "length"):
            stream.require(sum(p.get("finish_reason") == name for p in stream.pieces()) <= 1, f"two {name}s")


@check("stop.logprobs", "Entries of logprobs are those of the text that is left.", "Columns and text must align.")
def _(target: Target) -> None:
    middle = len(target.text) // 2
    stop = target.text[middle : middle + 2]
    completion = target.complete(stop=stop, logprobs=1, needs=["logprobs"])
    tokens = [token for token in completion.logprobs["tokens"] if not token.startswith("bytes:")]
    before, text = "".join(tokens[:-1]), completion.text
    completion.require(len(before) <= len(text), f"tokens {shown(tokens)} for the text {shown(text)}")
