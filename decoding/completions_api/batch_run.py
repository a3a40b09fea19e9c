"""Running a batch file: results are written as they finish, and what is in the output already is not run again."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from decoding.completions_api.batch import BatchLine, BatchOutput, error_line, is_beginning, output_line, parse_line
from decoding.completions_api.body import parse_object
from decoding.completions_api.chat_schema import chat_object
from decoding.completions_api.errors import ApiError, api_error, unknown_model
from decoding.completions_api.request import CompletionRequest
from decoding.completions_api.schema import completion_object
from decoding.completions_api.settings import ApiSettings
from decoding.engine.outputs import CompletionResult
from decoding.engine.tasks.completion import CompletionTask
from decoding.errors import DecodingError, ParameterError, shown
from decoding.llm import LLM

if sys.platform != "win32":
    import fcntl
else:
    fcntl = None

_MAX_OPEN = 256
"""Maximum number of requests in the engine; the others stay in their file."""


@dataclass(slots=True)
class BatchCounts:
    """Progress of a batch. num_failed: lines whose answer is an error, those of earlier runs among them."""

    num_lines: int
    num_answered: int = 0
    num_skipped: int = 0
    num_failed: int = 0
    num_tokens: int = 0


@dataclass(slots=True, eq=False)
class _Open:
    """A request in the engine; beamed: the results of its beam searches, which are run at once."""

    custom_id: str
    request: CompletionRequest
    llm: LLM
    is_chat: bool
    groups: list[CompletionTask]
    beamed: list[CompletionResult]


class BatchRun:
    """Runs every request of an OpenAI batch file that the output does not answer yet.

        BatchRun(llm, Path("in.jsonl"), Path("out.jsonl")).run(lambda counts: None)

    Output lines come in the order in which requests finish; `custom_id` names the request. To continue a run
    that was interrupted at any point, start it again: an unfinished line at the output's end is cut off.
    Raises ParameterError if the input is not a file, or if the output is not a batch output or another run is writing
    to it; OSError if it cannot write.
    """

    def __init__(
        self,
        llms: LLM | Mapping[str, LLM],
        source: Path,
        target: Path,
        settings: ApiSettings | None = None,
        *,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """llms: one model, or models by the names that requests give. warn: called with each hint, once."""
        if not source.is_file():
            raise ParameterError.single("input", str(source), "must be a file with one JSON object per line")
        if target.exists() and target.samefile(source):
            raise ParameterError.single("output", str(target), "must not be the input")
        self._llms = llms if isinstance(llms, Mapping) else {llms.name: llms}
        self._warn = warn
        self._hinted: set[str] = set()
        self._source = source
        self._settings = ApiSettings() if settings is None else settings
        self._output = _locked(target)
        try:
            self._answered, self._refused = _answered(target)
        except BaseException:
            self._output.close()
            raise
        self._seen: set[str] = set()
        self._open: list[_Open] = []
        with source.open("rb") as lines:
            self.counts = BatchCounts(sum(1 for line in lines if line.strip()))

    def run(self, tell: Callable[[BatchCounts], None]) -> BatchCounts:
        """Run all requests; `tell` is called after every step. Leaving by an exception frees what was in the engine."""
        with self._source.open("rb") as source, self._output as target:
            lines = (line for line in source if line.strip())
            try:
                while self._fill(lines, target) or self._open:
                    for llm in {one.llm for one in self._open}:
                        llm.engine.step()
                    self._write_finished(target)
                    tell(self.counts)
            finally:
                for one in self._open:
                    one.llm.engine.abort(one.groups)
        return self.counts

    def _fill(self, lines: Iterator[bytes], target: IO[str]) -> bool:
        """Start requests while there is room; return True if the input has more."""
        while len(self._open) < _MAX_OPEN:
            line = next(lines, None)
            if line is None:
                return False
            self._start(line, target)
        return True

    def _start(self, line: bytes, target: IO[str]) -> None:
        """Queue the request of one line, or answer it at once where it cannot be run."""
        try:
            parsed = parse_line(line.strip(), self._settings)
        except ApiError as error:
            self._refuse(target, _custom_id(line), error)
            return
        custom_id = parsed.custom_id
        if custom_id in self._seen:
            rule = f"custom_id={shown(custom_id)}: must be on one line only"
            self._refuse(target, custom_id, ApiError(400, rule, param="custom_id"))
            return
        self._seen.add(custom_id)
        if custom_id in self._answered:
            self.counts.num_skipped += 1
            self.counts.num_failed += self._answered[custom_id]
            return
        try:
            self._open.append(self._queued(parsed))
        except DecodingError as problem:
            given = frozenset() if parsed.request is None else parsed.request.given
            self._answer(target, output_line(custom_id, api_error(problem, given)), failed=True)

    def _refuse(self, target: IO[str], custom_id: str | None, error: ApiError) -> None:
        """Answer a line that is no request, unless an earlier run has done so."""
        if self._refused[custom_id, error.message]:
            self._refused[custom_id, error.message] -= 1
            self.counts.num_skipped += 1
            self.counts.num_failed += 1
        else:
            self._answer(target, error_line(custom_id, error), failed=True)

    def _queued(self, line: BatchLine) -> _Open:
        request = line.request
        if request is None:
            raise line.refusal or ApiError(400, "body: is not a request")
        llm = self._llms.get(request.model)
        if llm is None:
            raise unknown_model(request.model, list(self._llms))
        self._hint(request)
        prompts, is_chat = request.prompts, line.chat is not None
        if line.chat is not None:
            prompts = [llm.chat_prompt(line.chat.messages, **line.chat.options).token_ids]
        if request.beams is not None:
            beamed = [llm.beam_search(prompt, request.beams) for prompt in prompts]
            return _Open(line.custom_id, request, llm, is_chat, [], beamed)
        requests, _ = llm.engine.requests(prompts, request.params, profile=request.profile)
        return _Open(line.custom_id, request, llm, is_chat, llm.engine.add(requests), [])

    def _hint(self, request: CompletionRequest) -> None:
        """Pass on the hints about a request, each text once."""
        for text in request.hints:
            if text not in self._hinted:
                self._hinted.add(text)
                self._warn(text)

    def _write_finished(self, target: IO[str]) -> None:
        finished = [one for one in self._open if all(group.is_done for group in one.groups)]
        for one in finished:
            results = [*one.beamed, *(group.result(one.request.model) for group in one.groups)]
            self.counts.num_tokens += sum(result.usage.completion_tokens for result in results)
            errors = [choice.error for result in results for choice in result.choices if choice.error is not None]
            if errors:
                answer: Any = api_error(errors[0], one.request.given)
            else:
                answer = self._written(one, results)
            self._answer(target, output_line(one.custom_id, answer), failed=bool(errors))
        if finished:
            self._open = [one for one in self._open if one not in finished]

    def _written(self, one: _Open, results: list[CompletionResult]) -> Any:
        fingerprint, params = one.llm.fingerprint(one.request.profile), one.request.params
        if one.is_chat:
            num_top = params.logprobs or 0
            return chat_object(results, system_fingerprint=fingerprint, model=one.request.model, num_top=num_top)
        return completion_object(results, system_fingerprint=fingerprint, echo=params.echo)

    def _answer(self, target: IO[str], line: BatchOutput, *, failed: bool) -> None:
        target.write(json.dumps(line, allow_nan=False) + "\n")
        target.flush()
        self.counts.num_answered += 1
        self.counts.num_failed += failed


def _locked(target: Path) -> IO[str]:
    """Return the output, opened for appending and locked against other runs where the system has file locks."""
    output = target.open("a", encoding="utf-8")
    try:
        if fcntl is not None and target.is_file():
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        output.close()
        rule = "must not be in use as the output of another run"
        raise ParameterError.single("output", str(target), rule) from None
    except OSError:  # a file system without locks
        pass
    return output


def _custom_id(line: bytes) -> str | None:
    """Return the custom_id of a line that is wrong otherwise; None if it cannot be read."""
    try:
        custom_id = parse_object(line.strip()).get("custom_id")
    except ApiError:
        return None
    return custom_id if isinstance(custom_id, str) else None


def _answered(target: Path) -> tuple[dict[str, bool], Counter[tuple[str | None, str]]]:
    """Return the custom_ids in an output, True for an error; and (custom_id, message) of lines that were no request.

    An unfinished line at its end is removed if it begins as a line of ours does. Raises ParameterError for any other
    file, which is left as it is.
    """
    answered, refused, size = dict[str, bool](), Counter[tuple[str | None, str]](), 0
    if not target.is_file():  # a pipe or a device cannot be read again
        return answered, refused
    with target.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n") and is_beginning(line):
                break
            size += len(line)
            try:
                value = json.loads(line)
                if value["response"] is None:
                    refused[value["custom_id"], value["error"]["message"]] += 1
                else:
                    answered[value["custom_id"]] = value["response"]["status_code"] != 200
            except (ValueError, TypeError, KeyError, RecursionError):
                rule = f"must be new, or the output of a batch (line {number} is not a line of one)"
                raise ParameterError.single("output", str(target), rule) from None
    if size < target.stat().st_size:
        with target.open("r+b") as file:
            file.truncate(size)
    return answered, refused
