"""Every error that `decoding` raises on purpose.

    DecodingError
    |-- ParameterError (ValueError)          a bad argument; `.problems` lists all of them
    |-- PromptError (ValueError)             a prompt that this model cannot take
    |   |-- ContextLengthError               ... because it is longer than the context
    |   `-- FimTemplateError                 ... because it has a suffix, and the model no tokens for it
    |-- LogitsError (ValueError)             a bad matrix of logits
    |   |-- NonFiniteLogitsError             NaN or +inf; `.row`, `.token_id`, `.stage`
    |   `-- EmptySupportError                nothing left to draw; `.row`, `.stage`
    |-- ModelError                           something is wrong with a model folder
    |   |-- ModelNotFoundError               ... it is not there
    |   |-- CheckpointError                  ... its config or its tensors; `.path`, `.tensor`
    |   |-- UnsupportedModelError            ... a feature that we do not implement
    |   `-- TokenizerError                   ... its tokenizer, or it has none
    |-- EngineError                          the engine cannot go on with a request
    |   |-- ProcessorError                   ... its logits processor failed; `.name`
    |   |-- EngineMemoryError                ... there was no memory for its step
    |   |-- OverloadedError                  ... too many are waiting already; `.retry_after`
    |   `-- EngineClosedError                ... the engine is shutting down, or has
    `-- KernelError                          the compiled module
        `-- InstructionSetError              DECODING_ISA names a set that is unknown or absent

Servers map these by type. The text is for people: it names the parameter, the value and the rule.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Mapping, Sequence
from itertools import islice
from traceback import format_tb
from typing import Any, NamedTuple, TypeVar

_SHOWN = 80

MODEL_CONTEXT = "the model's context"
"""The usual `ContextLengthError.limit`: the model's context, not the memory for keys and values, bounds a prompt."""


class _Beginning(reprlib.Repr):
    """Makes reprs of which only the beginning is needed: of a million entries, only the first are read."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 8
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = _SHOWN
        self.maxstring = self.maxlong = 4 * _SHOWN

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        """Return the repr in the dict's own order (reprlib sorts the keys)."""
        if level <= 0:
            return "{...}"
        pieces = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in islice(x.items(), self.maxdict)]
        return "{" + ", ".join([*pieces, "..."] if len(x) > self.maxdict else pieces) + "}"

    def repr_instance(self, x: object, level: int) -> str:
        """Return the repr of the class, even if it raises (reprlib would show an address instead)."""
        return repr(x)


_BEGINNING = _Beginning()


def shown(value: object) -> str:
    """Return `repr(value)`, cut to one line of an error message, in time that does not grow with the value.

    Never raises: a value whose repr is refused (an int of 5,000 digits) or broken is named by its type.
    """
    try:
        text = " ".join(_BEGINNING.repr(value).split())
    except Exception:  # a hostile __repr__ must not replace the error that we are about to raise
        return f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


class Problem(NamedTuple):
    """One broken rule: the parameter's name, the value it had (already shown as text), and the rule."""

    parameter: str
    value: str
    rule: str

    def __str__(self) -> str:
        return f"{self.parameter}={self.value}: {self.rule}"


class DecodingError(Exception):
    """Root of the tree: `except DecodingError` catches whatever this library raises on purpose."""


DecodingErrorT = TypeVar("DecodingErrorT", bound=DecodingError)


def raisable(error: DecodingErrorT) -> DecodingErrorT:
    """Return a copy of an error that a result holds, to be raised.

    A traceback refers to frames, and these to the result: raising the error itself would make a reference cycle.
    """
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


def drop_frames(error: BaseException) -> None:
    """Replace the tracebacks of an exception and of its causes by notes with their text, so that it holds no frames."""
    cause: BaseException | None = error
    while cause is not None and cause.__traceback__ is not None:
        cause.add_note("Traceback (most recent call last):\n" + "".join(format_tb(cause.__traceback__)).rstrip())
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__


class ParameterError(DecodingError, ValueError):
    """One or more arguments break their rule; `problems` holds all of them, in the order of the fields."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    @classmethod
    def single(cls, parameter: str, value: object, rule: str) -> ParameterError:
        """Return the error of one parameter, with its value and the rule that it breaks."""
        return cls([Problem(parameter, shown(value), rule)])

    def __str__(self) -> str:
        return "; ".join(str(problem) for problem in self.problems)


class PromptError(DecodingError, ValueError):
    """The prompt cannot be completed by this model: empty, an unknown token id, no fill-in-the-middle tokens.

    parameter: which argument is wrong, such as "prompt", "prompt[3]" (one of several) or "suffix".
    """

    parameter = "prompt"

    def __init__(self, message: str, parameter: str = "prompt") -> None:
        super().__init__(message)
        self.parameter = parameter


class ContextLengthError(PromptError):
    """The prompt has more tokens than the context.

    num_tokens is a lower bound where `at_least` is True: the text was so long that it was not tokenised.
    limit: the name of the limit: the model's context, or the memory for keys and values.
    """

    limit = MODEL_CONTEXT

    def __init__(self, num_tokens: int, max_tokens: int, at_least: bool = False) -> None:
        DecodingError.__init__(self, num_tokens, max_tokens, at_least)
        self.num_tokens = num_tokens
        self.max_tokens = max_tokens
        self.at_least = at_least

    def __str__(self) -> str:
        at_least = "at least " if self.at_least else ""
        return (
            f"{self.parameter}={at_least}{self.num_tokens} tokens: must fit {self.limit} of {self.max_tokens}"
            " tokens (the last sampled token need not fit)"
        )


class FimTemplateError(PromptError):
    """A suffix was given, and the tokenizer has no fill-in-the-middle tokens of a known family.

    option: the argument or flag that gives a template, for the message.
    """

    option = "LLM(path, fim_template=...)"

    def __init__(self, suffix: str) -> None:
        DecodingError.__init__(self, suffix)
        self.parameter = "suffix"

    def __str__(self) -> str:
        return (
            f"suffix={shown(self.args[0])}: must be absent, as this model's tokenizer has no fill-in-the-middle tokens"
            f" that we know of; {self.option} gives a template for others"
        )


class LogitsError(DecodingError, ValueError):
    """The logits have a wrong shape, dtype or layout, or values without a distribution."""


class NonFiniteLogitsError(LogitsError):
    """NaN or +inf in row `row`, first at `token_id`, seen at the pipeline stage called `stage`."""

    def __init__(self, row: int, token_id: int, stage: str) -> None:
        super().__init__(row, token_id, stage)
        self.row = row
        self.token_id = token_id
        self.stage = stage

    def __str__(self) -> str:
        return (
            f"logits[{self.row}]: not finite at token id {self.token_id} (stage {self.stage});"
            " logits must be finite, or -inf for a banned token"
        )


class EmptySupportError(LogitsError):
    """Every token of row `row` is banned after the pipeline stage called `stage`."""

    def __init__(self, row: int, stage: str) -> None:
        super().__init__(row, stage)
        self.row = row
        self.stage = stage

    def __str__(self) -> str:
        return f"logits[{self.row}]: no token is left to draw after stage {self.stage}"


class ModelError(DecodingError):
    """A model cannot be loaded or used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """There is no model folder at this path, or it lacks a file that every model has."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class CheckpointError(ModelError, ValueError):
    """A file of the checkpoint breaks a rule: `path` names the file, `tensor` the tensor or config key."""

    def __init__(self, path: object, tensor: str | None, rule: str) -> None:
        super().__init__(path, tensor, rule)
        self.path = str(path)
        self.tensor = tensor
        self.rule = rule

    def __str__(self) -> str:
        where = self.path if self.tensor is None else f"{self.path}: {self.tensor}"
        return f"{where}: {self.rule}"


class UnsupportedModelError(ModelError, NotImplementedError):
    """The checkpoint is well-formed and asks for something that is not implemented here."""


class TokenizerError(ModelError, ValueError):
    """The tokenizer is missing, broken, or cannot do what was asked.

    parameter: which argument asked for it, such as "prompt" or "stop".
    """

    def __init__(self, message: str, parameter: str = "prompt") -> None:
        super().__init__(message)
        self.parameter = parameter


class EngineError(DecodingError, RuntimeError):
    """A request cannot go on, for a reason other than its logits: its step failed; `__cause__` has the reason."""


class ProcessorError(EngineError):
    """A custom logits processor raised an exception, or did not return a row of logits; `name` is the processor's."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name

    def __str__(self) -> str:
        return f"logits processor {self.name}: {self.args[1]}"


class EngineMemoryError(EngineError):
    """A request cannot go on because memory could not be allocated; it may be worth trying again."""


class OverloadedError(EngineError):
    """Too many requests are waiting; it may be worth trying again in `retry_after` seconds."""

    def __init__(self, num_waiting: int, retry_after: float) -> None:
        super().__init__(num_waiting, retry_after)
        self.num_waiting = num_waiting
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.num_waiting} prompts are waiting already; try again in {self.retry_after:.0f} s"


class EngineClosedError(EngineError):
    """The engine is shutting down or has done so: it accepts no requests, and unfinished ones are lost."""


class KernelError(DecodingError, RuntimeError):
    """The compiled module is missing, or refused arguments that the Python side should never pass."""


class InstructionSetError(KernelError):
    """DECODING_ISA names an instruction set that is unknown, or that this CPU or build does not have."""
