"""encode_ids: the only call of the `tokenizers` library that encodes a text, after a check for its memory."""

from __future__ import annotations

import mmap

import tokenizers

_LONG = 2048
"""Characters from which a text is tokenised without the GIL; for shorter texts, releasing it does not pay."""
_WORK_BYTES = 160
"""Memory for tokenising per byte of text."""
_MORE_BYTES = 1 << 20


def encode_ids(library: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Return the ids of a text. Raise MemoryError if there is no address space for the work."""
    _require_memory(_WORK_BYTES * len(text.encode()) + _MORE_BYTES)
    ids: list[int]
    if len(text) < _LONG:
        ids = library.encode(text, add_special_tokens=add_special_tokens).ids
    else:
        ids = library.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
    return ids


def _require_memory(num_bytes: int) -> None:
    """Raise MemoryError if so much cannot be mapped: the library ends the process if an allocation fails."""
    try:
        mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(f"{num_bytes:,} bytes to tokenise a text") from error
