"""BackendModel: makes a Backend a model of our engine.

    llm = LLM.from_parts(BackendModel(MyBackend(...)), tokenizer, max_num_seqs=8)

The engine works with blocks of a KV cache, a Backend with sequences. Here a block holds token ids only; the backend's
sequence that begins like them is looked up, and forked if others need it, too. Tokens that no sequence has are computed
again.
So prefix cache, preemption, best_of and speculation work over any backend.

Most backends give slightly different numbers for the same token in another batch. With batching="exact" a token's
numbers depend on its text only: sequences are computed one by one, each in calls at fixed borders. Whole pieces of 16
tokens, counted from the start of the text, are computed in one call. The tokens behind the last whole piece are
computed one by one, and once more together when the piece is complete. The logits of a token come from its own call,
or from that of the piece that it completes. With batching="shared" a step is one call of the backend, which is faster,
and bits depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from decoding.backends.protocol import Backend, Chunk
from decoding.backends.slots import Slot, Slots
from decoding.errors import EngineError, ParameterError
from decoding.models.batch import BLOCK_SIZE, ForwardBatch, IntArray, KVCache, Logits, blocks_for, check_num_blocks

Batching: TypeAlias = Literal["exact", "shared"]

BATCHINGS = ("exact", "shared")


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """The part of a model's config that the engine reads."""

    vocab_size: int
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


class TokenBlocks:
    """The token ids in each block of a cache whose keys and values the backend keeps."""

    def __init__(self, num_blocks: int, block_bytes: int) -> None:
        self.num_blocks = check_num_blocks(num_blocks)
        self.block_bytes = block_bytes
        self.token_ids = np.empty((num_blocks, BLOCK_SIZE), np.int32)

    def copy_block(self, source: int, target: int) -> None:
        """Copy the token ids of one block to another."""
        self.token_ids[target] = self.token_ids[source]

    def append(self, table: IntArray, start: int, token_ids: IntArray) -> IntArray:
        """Write the tokens behind the first `start` ones of a sequence; return all of them."""
        end = start + len(token_ids)
        blocks = table[: blocks_for(end)]
        text: IntArray = self.token_ids[blocks].reshape(-1)
        text[start:end] = token_ids
        self.token_ids[blocks[start // BLOCK_SIZE :]] = text.reshape(-1, BLOCK_SIZE)[start // BLOCK_SIZE :]
        return text[:end]


class BackendModel:
    """A Backend as a model (`decoding.models.batch.Model`).

    batching: "exact", tokens do not depend on what is computed beside them; "shared", faster.
    """

    rope_border: int | None = None

    def __init__(self, backend: Backend, *, batching: Batching = "exact") -> None:
        if batching not in BATCHINGS:
            raise ParameterError.single("batching", batching, "must be 'exact' or 'shared'")
        self.backend = backend
        self.batching = batching
        self.config = BackendConfig(
            backend.vocab_size, backend.max_tokens, backend.bos_token_id, tuple(backend.eos_token_ids)
        )
        self.digest = f"{backend.digest} {batching}"
        self._piece = BLOCK_SIZE if backend.can_truncate else 1
        self._slots = Slots(backend, self._piece if batching == "exact" else None)

    def rope_regime(self, length: int) -> int:
        """Return 0: the backend itself chooses rotary factors by length."""
        return 0

    def new_cache(self, num_blocks: int) -> TokenBlocks:
        """Return an empty cache of token ids."""
        return TokenBlocks(num_blocks, BLOCK_SIZE * self.backend.token_bytes)

    def forward(self, batch: ForwardBatch, cache: KVCache) -> Logits:
        """Compute the new tokens; return logits [num_logits, vocab].

        Raises ParameterError or ContextLengthError for a batch that does not fit, EngineError if the backend's logits
        have another shape than the wanted one.
        """
        if not isinstance(cache, TokenBlocks):
            raise ParameterError.single("cache", cache, "must be a cache of this model")
        batch.check(self.config, cache.num_blocks)
        logits = np.empty((len(batch.logits_tokens), self.config.vocab_size), np.float32)
        width = self.backend.num_sequences
        for first in range(0, len(batch.num_new), width):
            self._forward(batch, cache, range(first, min(first + width, len(batch.num_new))), logits)
        return logits

    def _forward(self, batch: ForwardBatch, cache: TokenBlocks, sequences: range, logits: Logits) -> None:
        """Compute some sequences of a batch, at most as many as the backend keeps, and fill in their logits."""
        ends = np.cumsum(batch.num_new)
        texts = []
        for index in sequences:
            new = batch.token_ids[ends[index] - batch.num_new[index] : ends[index]]
            texts.append(cache.append(batch.block_tables[index], int(batch.start[index]), new))
        starts = batch.start[sequences.start : sequences.stop].tolist()
        slots = self._slots.assign([text[:start] for text, start in zip(texts, starts, strict=True)])
        wanted = [_wanted(batch, index, int(ends[index])) for index in sequences]
        counts = [len(text) - int(rows.min(initial=len(text))) for text, (rows, _) in zip(texts, wanted, strict=True)]
        try:
            if self.batching == "exact":
                computed = [self._exact(*each) for each in zip(slots, texts, counts, strict=True)]
            else:
                computed = self._shared(slots, texts, counts)
        except BaseException:
            self._slots.clear(slots)
            raise
        for rows_of, text, count, (rows, places) in zip(computed, texts, counts, wanted, strict=True):
            logits[places] = rows_of[rows - (len(text) - count)]

    def _shared(self, slots: list[Slot], texts: list[IntArray], counts: list[int]) -> list[Logits]:
        """Compute everything in one call; return the logits of the last `counts` tokens of each text."""
        chunks = []
        for slot, text, count in zip(slots, texts, counts, strict=True):
            chunks.append(Chunk(slot.number, len(slot.token_ids), text[len(slot.token_ids) :].tolist(), count))
        logits = self._call(chunks)
        for slot, text in zip(slots, texts, strict=True):
            slot.token_ids = text
        return np.split(logits, np.cumsum(counts)[:-1])

    def _exact(self, slot: Slot, text: IntArray, count: int) -> Logits:
        """Compute one text at fixed borders; return the logits of its last `count` tokens."""
        rows = [np.empty((0, self.config.vocab_size), np.float32)]
        first_wanted, piece = len(text) - count, self._piece
        while (position := len(slot.token_ids)) < len(text):
            start = position // piece * piece
            border = start + piece
            if border <= len(text) and (position == border - 1 or (position == start and border <= first_wanted + 1)):
                self._slots.truncate(slot, start)
                end = border
            else:
                end = position + 1
            begin = len(slot.token_ids)
            num_logits = int(end > first_wanted)
            rows.append(self._call([Chunk(slot.number, begin, text[begin:end].tolist(), num_logits)]))
            slot.token_ids = text[:end]
        return np.concatenate(rows)

    def _call(self, chunks: list[Chunk]) -> Logits:
        logits = self.backend.forward(chunks)
        shape = (sum(chunk.num_logits for chunk in chunks), self.config.vocab_size)
        if logits.shape != shape or logits.dtype != np.float32:
            found = f"{logits.dtype} {list(logits.shape)}"
            raise EngineError(f"the backend's logits are {found}: must be float32 {list(shape)}")
        return logits


def _wanted(batch: ForwardBatch, index: int, last_token: int) -> tuple[IntArray, IntArray]:
    """Return the positions in its text of one sequence's wanted tokens, and the rows of the step's logits for them.

    last_token: index into the batch's tokens, behind the sequence's last one.
    """
    first, last = np.searchsorted(batch.logits_tokens, (last_token - int(batch.num_new[index]), last_token))
    positions: IntArray = batch.logits_tokens[first:last] - last_token + batch.ends[index]
    return positions, np.arange(first, last, dtype=np.int32)
