"""Checks of streams: their framing, and that their pieces add up to the completion that is not streamed."""

from __future__ import annotations

from typing import Any

from decoding.conformance.check import Checks
from decoding.conformance.outcome import FailedError, NotOfferedError
from decoding.conformance.stream import DONE, Stream, read_stream
from decoding.conformance.target import NUM_TOKENS, Target, shown

check = Checks()


@check("stream.content_type", "A stream's type is text/event-stream.", "Browsers and proxies buffer others.")
def _(target: Target) -> None:
    stream = read_stream(target)
    stream.require(stream.content_type.startswith("text/event-stream"), f"Content-Type is {stream.content_type!r}")


@check("stream.framing", "Every event is one `data:` line and a blank line, in UTF-8.", "Parsers split there.")
def _(target: Target) -> None:
    stream = read_stream(target)
    try:
        stream.raw.decode()
    except UnicodeDecodeError as error:
        raise FailedError(f"byte {error.start} of the stream is not UTF-8", stream.request) from None
    stream.require(stream.raw.endswith((b"\n\n", b"\r\n\r\n")), f"the stream ends with {stream.raw[-40:]!r}")
    known = (b"data:", b":", b"event:", b"id:", b"retry:")
    odd = [line for line in stream.raw.splitlines() if line and not line.startswith(known)]
    stream.require(not odd, f"a line is no field: {odd[:1]!r}")
    blocks = [block for block in stream.raw.replace(b"\r\n", b"\n").split(b"\n\n") if block]
    several = [block for block in blocks if sum(line.startswith(b"data:") for line in block.split(b"\n")) > 1]
    stream.require(not several, f"an event has several data lines: {several[:1]!r}")


@check("stream.done", "The last event is [DONE].", "Clients wait for it.")
def _(target: Target) -> None:
    stream = read_stream(target)
    stream.require(stream.events[-1:] == [DONE], f"the last event is {shown(stream.events[-1:])}")


@check(
    "stream.chunk",
    "Chunks are text_completion objects of one id, model and time.",
    "A client must know that they belong together.",
)
def _(target: Target) -> None:
    stream = read_stream(target)
    chunks = stream.chunks
    stream.require(len(chunks) > 0, "there are no chunks")
    kinds = {chunk.get("object") for chunk in chunks}
    stream.require(kinds == {"text_completion"}, f"object is {kinds}")
    for name in ("id", "model", "created"):
        values = {str(chunk.get(name)) for chunk in chunks}
        stream.require(len(values) == 1, f"{name} is {shown(sorted(values))}")


@check("stream.text", "The pieces of a stream add up to the text that is not streamed.", "It is the same completion.")
def _(target: Target) -> None:
    stream = read_stream(target)
    stream.require(stream.text() == target.greedy.text, f"{shown(stream.text())}, not {shown(target.greedy.text)}")


@check("stream.progress", "Text comes as it is made, not at the end.", "That is what a stream is for.")
def _(target: Target) -> None:
    stream = read_stream(target)
    with_text = sum(bool(piece.get("text")) for piece in stream.pieces())
    stream.require(with_text > 1, f"all of {shown(stream.text())} came in {with_text} piece")


@check("stream.finish", "The last piece of a choice has the finish_reason, no other.", "It tells clients the end.")
def _(target: Target) -> None:
    stream = read_stream(target)
    reasons = [piece.get("finish_reason") for piece in stream.pieces()]
    right = reasons and reasons[-1] == target.greedy.choice.get("finish_reason") and not any(reasons[:-1])
    stream.require(bool(right), f"finish_reasons are {shown([reason for reason in reasons if reason])}")


@check("stream.choices", "With n = 2 each chunk holds pieces by index, and both add up.", "Choices are interleaved.")
def _(target: Target) -> None:
    whole = target.complete(n=2, max_tokens=8, needs=["n"])
    stream = read_stream(target, n=2, max_tokens=8, needs=("n",))
    stream.require(all(len(chunk["choices"]) <= 1 for chunk in stream.chunks), "a chunk has several choices")
    for choice in whole.choices:
        text = stream.text(choice.get("index", 0))
        stream.require(text == choice.get("text"), f"choice {choice.get('index')} is {shown(text)}")


@check("stream.usage", "include_usage adds one last chunk with usage and no choices.", "It is how streams are billed.")
def _(target: Target) -> None:
    stream = read_stream(target, stream_options={"include_usage": True}, needs=("stream_options",))
    told = [chunk for chunk in stream.chunks if chunk.get("usage")]
    if not told:
        raise NotOfferedError("include_usage is ignored")
    last = stream.chunks[-1]
    stream.require(told == [last], f"{len(told)} chunks have usage, not the last alone")
    stream.require(last["choices"] == [], f"the chunk with usage has choices: {shown(last['choices'])}")
    same = {name: last["usage"].get(name) for name in target.greedy.usage}
    stream.require(same == target.greedy.usage, f"{shown(last['usage'])}, not {shown(target.greedy.usage)}")


@check("stream.logprobs", "The pieces' logprobs add up to those that are not streamed.", "Their lists are joined.")
def _(target: Target) -> None:
    whole = target.complete(logprobs=1, needs=["logprobs"]).logprobs
    stream = read_stream(target, logprobs=1, needs=("logprobs",))
    found = [piece["logprobs"] for piece in stream.pieces() if piece.get("logprobs")]
    for name in ("tokens", "text_offset"):
        joined = [entry for logprobs in found for entry in logprobs.get(name) or []]
        stream.require(joined == whole[name], f"{name} are {shown(joined)}, not {shown(whole[name])}")


@check("stream.unicode", "No character is broken between pieces, and no text is taken back.", "U+FFFD is for good.")
def _(target: Target) -> None:
    for seed in range(4):
        fields: dict[str, Any] = {"temperature": 2, "seed": seed, "max_tokens": 2 * NUM_TOKENS}
        whole, again = target.complete(**fields, needs=["seed"]), target.complete(**fields)
        if whole.text != again.text:
            raise NotOfferedError("seeds do not repeat, so there is nothing to compare with")
        stream: Stream = read_stream(target, **fields)
        stream.require(stream.text() == whole.text, f"{shown(stream.text())}, not {shown(whole.text)}")
