"""Errors as the Completions API writes them, mapped from the library's own by type."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypedDict

from decoding.completions_api.structured_fields import SPELLINGS
from decoding.errors import (
    ContextLengthError,
    DecodingError,
    EmptySupportError,
    EngineMemoryError,
    FimTemplateError,
    LogitsError,
    NonFiniteLogitsError,
    ParameterError,
    Problem,
    PromptError,
    TokenizerError,
)
from decoding.sampling.stages import PIPELINE

_MOST_PROBLEMS = 8
_MEMORY_SECONDS = 10


class ErrorDetail(TypedDict):
    """An error: its message, its type, the parameter, and a code for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(TypedDict):
    """The body of every answer that is an error, and of an error event in a stream."""

    error: ErrorDetail


class ApiError(DecodingError):
    """An error on its way to a client: HTTP status, message, parameter, code; `retry_after` in seconds or None."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """The kind of error, in the API's words."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def body(self) -> ErrorObject:
        """The JSON object of this error."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def invalid(problems: Sequence[Problem], code: str = "invalid_value") -> ApiError:
    """Return a 400 error for one or more broken rules; `param` names the first, the message lists the first eight."""
    told = [str(problem) for problem in problems[:_MOST_PROBLEMS]]
    more = len(problems) - len(told)
    message = "; ".join(told) + (f"; and {more} more" if more else "")
    return ApiError(400, message, param=problems[0].parameter.partition("[")[0], code=code)


def given_name(name: str) -> str:
    """Return a client's name of a field, shortened, in a form that every JSON parser reads."""
    name = name[:65].encode(errors="backslashreplace").decode()
    return name if len(name) <= 64 else name[:61] + "..."


def unknown_model(name: str, known: Sequence[str]) -> ApiError:
    """Return a 404 error with the list of models."""
    return ApiError(404, f"model={name}: must be one of {', '.join(known)}", param="model", code="model_not_found")


def api_error(error: BaseException, given: Collection[str] = ()) -> ApiError:
    """Return any error as the client may see it; `given` are the fields of its request.

    An error that is not of our tree becomes "internal error", without its text.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ParameterError):
        return invalid([problem._replace(parameter=_field_of(problem.parameter, given)) for problem in error.problems])
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), param=error.parameter.partition("[")[0], code="context_length_exceeded")
    if isinstance(error, FimTemplateError):
        error.option = "the server's --fim-template"
    if isinstance(error, PromptError | TokenizerError):
        return ApiError(400, str(error), param=error.parameter.partition("[")[0], code="invalid_value")
    if isinstance(error, EmptySupportError | NonFiniteLogitsError) and error.stage != PIPELINE[0].name:
        # the request's own penalties, biases and bans did it
        return ApiError(400, str(error), param=_parameter_of(error.stage, given), code="no_token_left")
    if isinstance(error, (EngineMemoryError, MemoryError)):
        return ApiError(
            503, "there is not enough memory for this request now", code="out_of_memory", retry_after=_MEMORY_SECONDS
        )
    if isinstance(error, LogitsError):
        return ApiError(500, "no token can be drawn from the model's logits", code="model_error")
    return ApiError(500, "internal error", code="internal_error")


def _parameter_of(stage: str, given: Collection[str]) -> str | None:
    """Return the first field of the request that a stage of the pipeline depends on."""
    (parameters,) = [one.parameters for one in PIPELINE if one.name == stage] or [()]
    fields = [*map(_on_wire, parameters), *((*SPELLINGS, "banned_strings") if stage == "hard_masks" else ())]
    return next((name for name in fields if name in given), None)


def _field_of(parameter: str, given: Collection[str]) -> str:
    """Return the field by which a request gave a parameter."""
    if parameter == "structured":
        return next((name for name in SPELLINGS if name in given), parameter)
    return _on_wire(parameter)


def _on_wire(parameter: str) -> str:
    """Return the API's name of a parameter."""
    return "repetition_penalty" if parameter == "context_frequency_penalty" else parameter
