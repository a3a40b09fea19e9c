"""Coupled verification of draft tokens: each is accepted if plain decoding would have drawn it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.sampling.fit import Fit
from decoding.sampling.kernel import Kernel
from decoding.sampling.output import SamplerOutput
from decoding.sampling.state import SamplingState
from decoding.sampling.token_input import mask_of


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of verifying a draft.

    output: the SamplerOutput of the tokens that were recorded.
    num_accepted: number of these tokens that are draft tokens.
    """

    output: SamplerOutput
    num_accepted: int

    @property
    def token_ids(self) -> list[int]:
        """The recorded tokens: the accepted draft tokens, then the token that was drawn after them.

        The last one is missing if all draft tokens were accepted and there was no further row.
        """
        token_ids: list[int] = self.output.token_ids.tolist()
        return token_ids


def verify(
    kernel: Kernel,
    matrix: NDArray[Any],
    state: SamplingState,
    draft: Sequence[int],
    bitmasks: NDArray[np.uint32] | None,
) -> Verification:
    """Verify a draft on a checked matrix, row by row, with the draws of plain decoding."""
    own_mask, start = state.bitmask, state.position
    outputs: list[SamplerOutput] = []
    num_accepted = 0
    try:
        while len(outputs) == num_accepted < len(matrix):
            row = num_accepted
            if bitmasks is not None:
                state.bitmask = bitmasks[row]
            outputs.append(_draw(kernel, matrix, row, state))
            num_accepted += state.output_token_ids[-1:] == list(draft[row : row + 1])
    except BaseException:
        state.truncate(start)
        raise
    finally:
        if bitmasks is not None:
            state.bitmask = own_mask
    return Verification(SamplerOutput.joined(outputs), num_accepted)


def _draw(kernel: Kernel, matrix: NDArray[Any], row: int, state: SamplingState) -> SamplerOutput:
    """Draw from one row and record the token."""
    state.check_fit(Fit(kernel.vocab_size))
    output = kernel.sample(matrix[row : row + 1], [state.kernel_row])
    for error in output.failures.values():
        raise type(error)(row, *error.args[1:])  # it was row 0 of its call
    state.commit(int(output.token_ids[0]), output, 0)
    return output


def checked_bitmasks(bitmasks: Any, num_rows: int) -> NDArray[np.uint32] | None:
    """Return masks as uint32. Raise ParameterError unless there is one per row, [rows, words]."""
    if bitmasks is None:
        return None
    masks = mask_of("bitmasks", bitmasks, 2)
    if len(masks) != num_rows:
        rule = f"must have one mask for each of the {num_rows} rows of logits"
        raise ParameterError.single("bitmasks", bitmasks, rule)
    return masks
