"""The library's errors as answers of the API."""

from __future__ import annotations

import pytest

from decoding.completions_api.errors import ApiError, api_error
from decoding.errors import (
    ContextLengthError,
    EmptySupportError,
    NonFiniteLogitsError,
    ParameterError,
    PromptError,
)


@pytest.mark.parametrize(
    ("error", "status", "param", "code"),
    [
        (ParameterError.single("stop_token_ids", 9, "no"), 400, "stop_token_ids", "invalid_value"),
        (ParameterError.single("context_frequency_penalty", 9, "no"), 400, "repetition_penalty", "invalid_value"),
        (PromptError("prompt[3][7]=9: no", "prompt[3][7]"), 400, "prompt", "invalid_value"),
        (PromptError("suffix: no markers", "suffix"), 400, "suffix", "invalid_value"),
        (ContextLengthError(5, 4), 400, "prompt", "context_length_exceeded"),
        (EmptySupportError(0, "hard_masks"), 400, "bad_words", "no_token_left"),
        (EmptySupportError(0, "finite_check"), 500, None, "model_error"),
        (NonFiniteLogitsError(0, 1, "finite_check"), 500, None, "model_error"),
        (NonFiniteLogitsError(0, 1, "context_frequency_penalty"), 400, "repetition_penalty", "no_token_left"),
        (RuntimeError("/secret at 0x7f00"), 500, None, "internal_error"),
        (ApiError(404, "no"), 404, None, None),
    ],
)
def test_by_type(error, status, param, code):
    """Status, parameter and code follow from the type of the error; an unknown error reveals nothing."""
    made = api_error(error, {"bad_words", "repetition_penalty"})
    assert (made.status, made.param, made.code) == (status, param, code)
    assert "secret" not in made.message
    assert made.body()["error"]["type"] == ("server_error" if status == 500 else "invalid_request_error")
