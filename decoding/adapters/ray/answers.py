"""Answers of batch lines that depend on the line alone: not on the worker, the order, the time or a retry.

A request without a seed gets one that follows from its line. Ids are digests of the line, and `created` is 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from decoding.completions_api.batch import BatchLine, BatchOutput, error_line, output_line, parse_line
from decoding.completions_api.body import parse_object
from decoding.completions_api.errors import ApiError, api_error, unknown_model
from decoding.completions_api.schema import completion_object
from decoding.completions_api.settings import ApiSettings
from decoding.engine.tasks.completion import CompletionTask
from decoding.errors import DecodingError
from decoding.llm import LLM


def answers(llm: LLM, lines: Sequence[str], settings: ApiSettings | None = None) -> list[str]:
    """Return the answer of each batch line, as a line of JSON; all lines run in the engine together.

    A line that is wrong, or asks for another model, is answered with an error. Exceptions of the
    engine itself are raised, so that the lines can be tried again.
    """
    queued: list[tuple[str, BatchLine | None, list[CompletionTask], BatchOutput | None]] = []
    try:
        for line in lines:
            queued.append((line, *_queued(llm, line, settings)))
        while not all(task.is_done for _, _, tasks, _ in queued for task in tasks):
            llm.engine.step()
        return [
            _dumped(line, refusal if parsed is None or refusal is not None else _answer(llm, parsed, tasks))
            for line, parsed, tasks, refusal in queued
        ]
    finally:
        llm.engine.abort(task for _, _, tasks, _ in queued for task in tasks)


def seed_of(line: bytes) -> int:
    """Return the seed of a line that has none: 64 bits of its digest, signed."""
    return int.from_bytes(_digest(line, b"seed")[:8], "little", signed=True)


def _queued(
    llm: LLM, line: str, settings: ApiSettings | None
) -> tuple[BatchLine | None, list[CompletionTask], BatchOutput | None]:
    """Put a line's prompts into the engine; return the answer instead if it is refused."""
    raw = line.encode()
    try:
        parsed = parse_line(_seeded(raw), settings)
    except ApiError as error:
        return None, [], error_line(_custom_id(raw), error)
    try:
        if parsed.request is None:
            raise parsed.refusal or ApiError(400, "body: is not a request")
        if parsed.request.model != llm.name:
            raise unknown_model(parsed.request.model, [llm.name])
        requests, _ = llm.engine.requests(parsed.request.prompts, parsed.request.params)
        return parsed, llm.engine.add(requests), None
    except ApiError as error:
        return parsed, [], output_line(parsed.custom_id, error)
    except DecodingError as error:
        given = frozenset() if parsed.request is None else parsed.request.given
        return parsed, [], output_line(parsed.custom_id, api_error(error, given))


def _seeded(raw: bytes) -> bytes:
    """Return the line with a seed in its body; unchanged if it has one, or its body is no object."""
    fields = parse_object(raw)
    body = fields.get("body")
    if not isinstance(body, dict) or body.get("seed") is not None:
        return raw
    return json.dumps(fields | {"body": body | {"seed": seed_of(raw)}}).encode()


def _custom_id(raw: bytes) -> str | None:
    try:
        custom_id = parse_object(raw).get("custom_id")
    except ApiError:
        return None
    return custom_id if isinstance(custom_id, str) else None


def _answer(llm: LLM, parsed: BatchLine, tasks: Sequence[CompletionTask]) -> BatchOutput:
    assert parsed.request is not None
    results = [task.result(llm.name) for task in tasks]
    for choice in (choice for result in results for choice in result.choices):
        if choice.error is not None:
            return output_line(parsed.custom_id, api_error(choice.error, parsed.request.given))
    echo = parsed.request.params.echo
    answer = completion_object(results, system_fingerprint=llm.system_fingerprint, echo=echo)
    return output_line(parsed.custom_id, answer)


def _dumped(line: str, output: BatchOutput | None) -> str:
    """Return the answer as JSON, with ids that follow from the line."""
    assert output is not None
    answer: dict[str, Any] = dict(output)
    number = _digest(line.encode(), b"id").hex()
    answer["id"] = f"batch_req_{number}"
    if answer["response"] is not None:
        answer["response"] = response = dict(answer["response"]) | {"request_id": f"req_{number}"}
        if response["status_code"] == 200:
            response["body"] = response["body"] | {"id": f"cmpl-{number}", "created": 0}
    return json.dumps(answer, allow_nan=False)


def _digest(line: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=12, person=purpose).digest()
