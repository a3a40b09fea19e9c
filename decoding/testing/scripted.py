"""A mock model whose logits are a function of the sequence's own token ids and nothing else.

    model = ScriptedModel(hashed_logits(seed=1), vocab_size=260)
    llm = LLM.from_parts(model, byte_tokenizer())

No batch, block or cache can change a bit of such logits, so a result that differs between a request alone and in a
batch is a fault of the decoding loop. The cache holds token ids, and raises ValueError if it is misused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.models.batch import BLOCK_SIZE, ForwardBatch, KVCache
from decoding.sampling.kernel import DrawnSteps, StepsAhead
from decoding.sampling.output import SamplerOutput
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState
from decoding.text.token_decoder import PieceRules
from decoding.text.tokenizer import Tokenizer
from decoding.text.tokenizer_config import TokenizerConfig

Script: TypeAlias = Callable[[Sequence[int], int], NDArray[np.float32]]
"""(token ids of one sequence so far, vocab_size) -> logits of the next token, float32 [vocab_size]."""


@dataclass(frozen=True, slots=True)
class ScriptedConfig:
    """The part of a model's config that the engine reads."""

    vocab_size: int
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


class ScriptedCache:
    """The keys of each block, each a token id and the number of its rotary factors; one byte per token.

    ValueError for a key that is read and was never written.
    """

    block_bytes = BLOCK_SIZE

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._keys: list[dict[int, tuple[int, int]]] = [{} for _ in range(num_blocks)]

    def copy_block(self, source: int, target: int) -> None:
        """Copy the keys of one block to another."""
        self._keys[target] = dict(self._keys[source])

    def write(self, block: int, offset: int, key: tuple[int, int]) -> None:
        """Store the key of one token; the first one of a block clears it."""
        if offset == 0:
            self._keys[block] = {}
        self._keys[block][offset] = key

    def read(self, blocks: Sequence[int], num_tokens: int) -> list[tuple[int, int]]:
        """Return the keys of the first `num_tokens` tokens of the sequence in these blocks."""
        keys = []
        for position in range(num_tokens):
            block, offset = blocks[position // BLOCK_SIZE], position % BLOCK_SIZE
            if offset not in self._keys[block]:
                raise ValueError(f"block {block} has no key at offset {offset}, for position {position}")
            keys.append(self._keys[block][offset])
        return keys


class ScriptedModel:
    """A mock model for tests of everything above the forward pass.

    script: makes the next token's logits (see `Script`).
    rope_border, rope_regime: as of `decoding.models.batch.Model`. With `rope_regime`, the script gets
        token_id + vocab_size * regime for each token, with the regime of the length that rotated its
        key, so that logits depend on it as in a real model.
    most_steps: decoding steps that it runs in a row at most, as `decoding.models.batch.StepsModel`.
    num_forwards, num_tokens: forward passes so far, and tokens computed in them.
    """

    def __init__(
        self,
        script: Script,
        vocab_size: int,
        *,
        max_position_embeddings: int = 1024,
        bos_token_id: int | None = None,
        eos_token_ids: tuple[int, ...] = (),
        rope_border: int | None = None,
        rope_regime: Callable[[int], int] | None = None,
        most_steps: int = 1,
    ) -> None:
        self.config = ScriptedConfig(vocab_size, max_position_embeddings, bos_token_id, eos_token_ids)
        self.rope_border = rope_border
        self.num_forwards = 0
        self.num_tokens = 0
        self._script = script
        self._regime = rope_regime
        self._most_steps = most_steps

    def rope_regime(self, length: int) -> int:
        """Return the number of the rotary factors for a length."""
        return 0 if self._regime is None else self._regime(length)

    def new_cache(self, num_blocks: int) -> ScriptedCache:
        """Return an empty cache."""
        return ScriptedCache(num_blocks)

    def forward(self, batch: ForwardBatch, cache: KVCache) -> NDArray[np.float32]:
        """Return logits [num_logits, vocab] of the wanted tokens; ValueError for a batch that breaks a rule."""
        if not isinstance(cache, ScriptedCache):
            raise ValueError(f"cache={cache!r}: must be a ScriptedCache")
        _check(batch)
        self.num_forwards += 1
        self.num_tokens += len(batch.token_ids)
        wanted = set(batch.logits_tokens.tolist())
        logits: list[NDArray[np.float32]] = []
        first = 0
        rows = zip(
            batch.num_new.tolist(), batch.start.tolist(), batch.rope_lengths.tolist(), batch.block_tables, strict=True
        )
        for num_new, start, rope_length, table in rows:
            token_ids = batch.token_ids[first : first + num_new].tolist()
            turned = self._extend(cache, table.tolist(), start, token_ids, rope_length)
            ends = (start + index + 1 for index in range(num_new) if first + index in wanted)
            logits += [self._logits(turned[:end]) for end in ends]
            first += num_new
        return np.stack(logits) if logits else np.empty((0, self.config.vocab_size), np.float32)

    def max_steps(self, num_sequences: int) -> int:
        """Return how many decoding steps it runs in a row at most."""
        return self._most_steps

    def decode(
        self, batch: ForwardBatch, cache: KVCache, sampler: Sampler, states: list[SamplingState], ahead: StepsAhead
    ) -> DrawnSteps:
        """Run decoding steps in a row, one by one."""
        steps: list[NDArray[np.int32]] = []
        outputs: list[SamplerOutput] = []
        while True:
            output = sampler.sample(self.forward(batch, cache), states, on_error="status")
            steps.append(output.token_ids)
            outputs.append(output)
            has_drawn = output.token_ids >= 0
            batch.token_ids[has_drawn] = output.token_ids[has_drawn]
            batch.start[has_drawn] += 1
            ends = output.failures or ahead.interrupted[0] or set(output.token_ids.tolist()) & set(ahead.ending_ids)
            if ends or len(steps) == ahead.num_steps:
                return DrawnSteps(np.stack(steps), output.failures, SamplerOutput.joined(outputs))

    def _extend(
        self, cache: ScriptedCache, blocks: list[int], start: int, token_ids: list[int], rope_length: int
    ) -> list[int]:
        """Write new tokens to the cache; return all tokens of the sequence for the script."""
        end = start + len(token_ids)
        if end > self.config.max_position_embeddings:
            raise ValueError(f"{end} tokens do not fit {self.config.max_position_embeddings} positions")
        keys = cache.read(blocks, start)
        for position, token_id in enumerate(token_ids, start):
            key = (token_id, self.rope_regime(max(rope_length, position + 1)))
            cache.write(blocks[position // BLOCK_SIZE], position % BLOCK_SIZE, key)
            keys.append(key)
        if self.rope_border is not None and len({regime for _, regime in keys}) > 1:
            raise ValueError("a sequence has keys with the rotary factors of both sides of the border")
        return [token_id + self.config.vocab_size * regime for token_id, regime in keys]

    def _logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return np.asarray(self._script(token_ids, self.config.vocab_size), dtype=np.float32)


def _check(batch: ForwardBatch) -> None:
    """Raise ValueError unless the arrays of a batch fit each other."""
    arrays = (batch.token_ids, batch.num_new, batch.start, batch.rope_lengths, batch.logits_tokens, *batch.block_tables)
    if any(array.dtype != np.int32 for array in arrays):
        raise ValueError("all arrays of a batch must be int32")
    num_sequences = len(batch.num_new)
    if not num_sequences == len(batch.start) == len(batch.rope_lengths) == len(batch.block_tables):
        raise ValueError("num_new, start, rope_lengths and block_tables must have one entry per sequence")
    if (batch.num_new < 1).any() or int(batch.num_new.sum()) != len(batch.token_ids):
        raise ValueError("num_new must be >= 1 and sum to the number of tokens")
    for num_new, start, table in zip(batch.num_new, batch.start, batch.block_tables, strict=True):
        if len(table) * BLOCK_SIZE < start + num_new:
            raise ValueError("a block table must have a block for every token")
    if (np.diff(batch.logits_tokens) <= 0).any() or not (batch.logits_tokens < len(batch.token_ids)).all():
        raise ValueError("logits_tokens must be ascending indices of tokens")


def hashed_logits(seed: int = 0, scale: float = 3.0) -> Script:
    """Return a script of normally distributed logits, whose generator is seeded with the digest of the sequence."""

    def script(token_ids: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
        digest = hashlib.blake2b(repr((seed, list(token_ids))).encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(int.from_bytes(digest, "little")))
        return (scale * generator.standard_normal(vocab_size)).astype(np.float32)

    return script


def fixed_reply(reply: Sequence[int], prompt_length: int, peak: float = 20.0) -> Script:
    """Return a script with logits `peak` for the next token of `reply` after a prompt of `prompt_length`, 0 for others.

    After its end the reply starts again.
    """

    def script(token_ids: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
        logits = np.zeros(vocab_size, np.float32)
        logits[reply[(len(token_ids) - prompt_length) % len(reply)]] = peak
        return logits

    return script


def byte_tokenizer(extra: Sequence[bytes] = (), special: Sequence[str] = ()) -> Tokenizer:
    """Return a tokenizer: token i is byte i, 0 .. 255; then come `extra` ones (longer, distinct), then `special`.

    It encodes to single bytes only; `extra` tokens, of any bytes, can only be sampled. A `special` token
    named `<bos>` or `<eos>` is the tokenizer's start or end token.
    """
    rules = PieceRules({"type": "ByteLevel"})
    alphabet = {rules.piece(chr(point), first=False): chr(point) for point in range(0x21, 0x144)}
    spellings = ["".join(alphabet[bytes((byte,))] for byte in token) for token in (*map(_one_byte, range(256)), *extra)]
    if len(set(spellings)) != len(spellings):
        raise ValueError(f"extra={extra!r}: must be distinct, and not single bytes, which are there already")
    first_special = len(spellings)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    contents = {
        "version": "1.0",
        "added_tokens": [{"id": first_special + i, "content": text, **flags} for i, text in enumerate(special)],
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "vocab": {text: i for i, text in enumerate(spellings)}, "merges": []},
    }
    config = {f"{name}_token": f"<{name}>" for name in ("bos", "eos") if f"<{name}>" in special}
    return Tokenizer(json.dumps(contents).encode(), TokenizerConfig(config))


def _one_byte(byte: int) -> bytes:
    return bytes((byte,))
