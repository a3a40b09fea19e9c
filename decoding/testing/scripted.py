"""A model whose logits are what a test says they are: a function of the sequence's own token ids and nothing else.

    model = ScriptedModel(hashed_logits(seed=1), vocab_size=260)
    llm = LLM.from_parts(model, byte_tokenizer())

No batch, slot or cache can change a bit of such logits, so whatever comes out differently alone and in a
batch is the decoding loop's doing. The cache keeps token ids and refuses to be used wrongly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.models.batch import ForwardBatch
from decoding.text.token_decoder import PieceRules
from decoding.text.tokenizer import Tokenizer
from decoding.text.tokenizer_config import TokenizerConfig

Script: TypeAlias = Callable[[Sequence[int], int], NDArray[np.float32]]
"""(token ids of one sequence so far, vocab_size) -> logits of the next token, float32 [vocab_size]."""


@dataclass(frozen=True, slots=True)
class ScriptedConfig:
    """What the engine reads of a model's config."""

    vocab_size: int
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


class ScriptedCache:
    """The token ids of each slot; ValueError where a slot lacks tokens that it is said to have.

    It keeps what a real cache keeps: the beginning that a slot shares is looked up where it is, each time. A token
    counts as one byte.
    """

    token_bytes = 1

    def __init__(self, num_slots: int) -> None:
        self._bases: list[tuple[int, int] | None] = [None] * num_slots
        self._token_ids: list[dict[int, int]] = [{} for _ in range(num_slots)]

    @property
    def num_tokens(self) -> int:
        """Tokens in all slots together, shared ones once."""
        return sum(map(len, self._token_ids))

    def extend(self, slot: int, start: int, token_ids: Sequence[int]) -> list[int]:
        """Put `token_ids` after the first `start` tokens of a slot; returns all of its tokens."""
        before = self.prefix(slot, start)
        self._token_ids[slot].update(enumerate(token_ids, start))
        return [*before, *token_ids]

    def share(self, src_slot: int, dst_slot: int, num_tokens: int) -> None:
        """Let the sequence in `dst_slot` begin with the first `num_tokens` tokens of the one in `src_slot`."""
        self._bases[dst_slot], self._token_ids[dst_slot] = (src_slot, num_tokens), {}

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Forget the tokens after the first `num_tokens`; 0 forgets what the slot shares, too."""
        kept = self._token_ids[slot].items()
        self._token_ids[slot] = {position: token_id for position, token_id in kept if position < num_tokens}
        if num_tokens == 0:
            self._bases[slot] = None

    def prefix(self, slot: int, num_tokens: int) -> list[int]:
        """The first `num_tokens` tokens of a slot."""
        base = self._bases[slot]
        shared = [] if base is None else self.prefix(base[0], min(base[1], num_tokens))
        try:
            return [*shared, *(self._token_ids[slot][position] for position in range(len(shared), num_tokens))]
        except KeyError as error:
            raise ValueError(f"slot {slot} lacks token {error} of the {num_tokens} that the caller counts on") from None


class ScriptedModel:
    """A mock model for tests of everything above the forward pass.

    script: what the next token's logits are (see `Script`). `num_forwards` and `num_tokens` count the forward
    passes and the tokens that were fed.
    """

    def __init__(
        self,
        script: Script,
        vocab_size: int,
        *,
        max_position_embeddings: int = 1024,
        bos_token_id: int | None = None,
        eos_token_ids: tuple[int, ...] = (),
    ) -> None:
        self.config = ScriptedConfig(vocab_size, max_position_embeddings, bos_token_id, eos_token_ids)
        self.num_forwards = 0
        self.num_tokens = 0
        self._script = script

    def new_cache(self, num_slots: int) -> ScriptedCache:
        """An empty cache."""
        return ScriptedCache(num_slots)

    def forward(self, batch: ForwardBatch, cache: ScriptedCache) -> NDArray[np.float32]:
        """Logits [rows, vocab] of each row's last new token, or [total, vocab] with batch.all_logits."""
        self.num_forwards += 1
        self.num_tokens += len(batch.token_ids)
        logits: list[NDArray[np.float32]] = []
        new_tokens = np.split(batch.token_ids, np.cumsum(batch.num_new)[:-1])
        for slot, start, new in zip(batch.slots.tolist(), batch.start.tolist(), new_tokens, strict=True):
            token_ids = cache.extend(slot, start, new.tolist())
            self._check_length(len(token_ids))
            first = start + 1 if batch.all_logits else len(token_ids)
            logits += [self._logits(token_ids[:end]) for end in range(first, len(token_ids) + 1)]
        return np.stack(logits)

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens > self.config.max_position_embeddings:
            raise ValueError(f"{num_tokens} tokens do not fit {self.config.max_position_embeddings} positions")

    def _logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return np.asarray(self._script(token_ids, self.config.vocab_size), dtype=np.float32)


def hashed_logits(seed: int = 0, scale: float = 3.0) -> Script:
    """Normally distributed logits, other ones for every sequence: their generator is seeded with its digest."""

    def script(token_ids: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
        digest = hashlib.blake2b(repr((seed, list(token_ids))).encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(int.from_bytes(digest, "little")))
        return (scale * generator.standard_normal(vocab_size)).astype(np.float32)

    return script


def fixed_reply(reply: Sequence[int], prompt_length: int, peak: float = 20.0) -> Script:
    """Logits that are `peak` for the next token of `reply` after a prompt of `prompt_length`, and 0 for the others.

    Past its end the reply starts again.
    """

    def script(token_ids: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
        logits = np.zeros(vocab_size, np.float32)
        logits[reply[(len(token_ids) - prompt_length) % len(reply)]] = peak
        return logits

    return script


def byte_tokenizer(extra: Sequence[bytes] = (), special: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer in which token i is byte i, 0 .. 255; then `extra` ones (longer, distinct), then `special`.

    It encodes to single bytes only; `extra` tokens, of any bytes, are there to be sampled. A `special` token
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
