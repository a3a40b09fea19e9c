"""TokenHistory: a `decoding_history`, i.e. the tokens of one sequence and the counts that its penalties need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.errors import KernelError
from decoding.sampling.kernel.library import ffi, lib, status_message
from decoding.sampling.kernel.row import KernelRow
from decoding.types import RepetitionScope

SPARE = 64
"""Number of spare tokens at first; later the memory doubles."""

_SCOPES: dict[str, int] = {"prompt+output": lib.DECODING_SCOPE_ALL, "output": lib.DECODING_SCOPE_OUTPUT}
_ids = ffi.typeof("int32_t[]")


class TokenHistory:
    """Tokens and counts, in memory that grows with the sequence. The caller checks that tokens are valid ids.

    scope: the tokens to which the repetition penalty applies: prompt + output, the output, or a number of last tokens.
    struct: the `decoding_history`.
    """

    __slots__ = ("_memory", "_one", "_scope", "struct")

    def __init__(
        self,
        prompt: NDArray[np.int32],
        scope: RepetitionScope | int = "prompt+output",
        output: NDArray[np.int32] | None = None,
    ) -> None:
        self.struct: Any = ffi.new("decoding_history *")
        self._scope = scope if isinstance(scope, int) else _SCOPES[scope]
        self._one: Any = ffi.new("int32_t[1]")
        num_output = 0 if output is None else len(output)
        self._begin(prompt, len(prompt) + num_output + SPARE)
        if output is not None:
            self.extend(output)

    def __len__(self) -> int:
        """Number of tokens, prompt + output."""
        return int(self.struct.num_tokens)

    @property
    def num_output(self) -> int:
        """Number of generated tokens."""
        return int(self.struct.num_tokens - self.struct.num_prompt)

    @property
    def prompt(self) -> NDArray[np.int32]:
        """The tokens of the prompt, int32; a copy."""
        return self._tokens(0, self.struct.num_prompt)

    @property
    def output(self) -> NDArray[np.int32]:
        """The generated tokens, int32; a copy."""
        return self._tokens(self.struct.num_prompt, self.struct.num_tokens)

    def copy(self) -> TokenHistory:
        """Return a history of the same tokens that shares no memory with this one."""
        other = TokenHistory.__new__(TokenHistory)
        other.struct, other._scope, other._one = ffi.new("decoding_history *"), self._scope, ffi.new("int32_t[1]")
        other._begin(self.prompt, int(self.struct.max_tokens))
        other.extend(self.output)
        return other

    def append(self, token_id: int) -> None:
        """Append a generated token."""
        self._one[0] = token_id
        status = lib.decoding_history_append(self.struct, self._one, 1)
        if status == lib.DECODING_SMALL_WORKSPACE:
            self.grow()
            status = lib.decoding_history_append(self.struct, self._one, 1)
        _require(status)

    def extend(self, token_ids: NDArray[np.int32]) -> None:
        """Append generated tokens for which there is room."""
        _require(lib.decoding_history_append(self.struct, ffi.from_buffer(_ids, token_ids), len(token_ids)))

    def truncate(self, num_output: int) -> None:
        """Keep the first generated tokens and undo the later ones."""
        _require(lib.decoding_history_truncate(self.struct, num_output))

    def grow(self) -> None:
        """Move to memory for twice as many tokens. Rows that point here must be updated by `use`."""
        prompt, output = self.prompt, self.output
        self._begin(prompt, 2 * int(self.struct.max_tokens))
        self.extend(output)

    def reserve(self, num_tokens: int, row: KernelRow) -> None:
        """Make room for further tokens, and let the row point to memory that has moved."""
        while int(self.struct.max_tokens - self.struct.num_tokens) < num_tokens:
            self.grow()
            self.use(row)

    def use(self, row: KernelRow) -> None:
        """Set the position of a row, and its pointers to tokens and counts, after each change."""
        lib.decoding_history_use(self.struct, row.struct)
        row.keep("history", self._memory)

    def _begin(self, prompt: NDArray[np.int32], max_tokens: int) -> None:
        self._memory = np.empty(lib.decoding_history_size(max_tokens) // 4, np.int32)
        memory, ids = ffi.from_buffer(self._memory), ffi.from_buffer(_ids, prompt)
        _require(lib.decoding_history_init(self.struct, memory, max_tokens, self._scope, ids, len(prompt)))

    def _tokens(self, start: int, end: int) -> NDArray[np.int32]:
        return self._memory[start:end].copy()  # token_ids is the first of the arrays


def append_tokens(histories: Sequence[TokenHistory], rows: Sequence[KernelRow], token_ids: Sequence[int]) -> None:
    """Append a generated token to each history and let its row point to it: one call into C for all of them."""
    pointers = ffi.new("decoding_history *[]", [history.struct for history in histories])
    structs, tokens = ffi.new("decoding_row *[]", [row.struct for row in rows]), ffi.new(_ids, token_ids)
    done, count = 0, len(histories)
    while True:
        done += lib.dk_append_tokens(pointers + done, structs + done, tokens + done, count - done)
        if done == count:
            return
        histories[done].grow()
        histories[done].use(rows[done])  # the memory has moved


def _require(status: int) -> None:
    if status != lib.DECODING_OK:  # ids and lengths are checked before
        raise KernelError(f"the kernel refused a token history: {status_message(status)}")
