"""A mock backend (`decoding.backends.protocol.Backend`) whose logits follow from a script.

    model = BackendModel(ScriptedBackend(hashed_logits(seed=1), vocab_size=260))
    llm = LLM.from_parts(model, byte_tokenizer())

With `noisy`, the logits also depend on how the tokens were divided into calls, as those of real libraries do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from decoding.backends.protocol import Chunk
from decoding.testing.scripted import Script


class ScriptedBackend:
    """A mock of another library, which raises ValueError if it is misused.

    script: makes the next token's logits (see `decoding.testing.scripted.Script`).
    noisy: the script gets token_id + vocab_size * (tokens in the token's call), so that its logits depend on the calls.
    can_truncate: False behaves as a recurrent network.
    num_calls, num_tokens, num_forks: calls of forward, tokens computed in them, calls of fork.
    """

    def __init__(
        self,
        script: Script,
        vocab_size: int,
        *,
        num_sequences: int = 32,
        max_tokens: int = 1024,
        bos_token_id: int | None = None,
        eos_token_ids: tuple[int, ...] = (),
        noisy: bool = False,
        can_truncate: bool = True,
    ) -> None:
        self.vocab_size = vocab_size
        self.num_sequences = num_sequences
        self.max_tokens = max_tokens
        self.bos_token_id = bos_token_id
        self.eos_token_ids = eos_token_ids
        self.can_truncate = can_truncate
        self.token_bytes = 1
        self.digest = "scripted"
        self.num_calls = self.num_tokens = self.num_forks = 0
        self._script = script
        self._noisy = noisy
        self._keys: list[list[int]] = [[] for _ in range(num_sequences)]

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Append the chunks; ValueError for one that breaks a rule."""
        if not chunks or len({chunk.sequence for chunk in chunks}) != len(chunks):
            raise ValueError("chunks must be of different sequences, at least one")
        call_size = sum(len(chunk.token_ids) for chunk in chunks)
        self.num_calls += 1
        self.num_tokens += call_size
        logits = [np.empty((0, self.vocab_size), np.float32)]
        for chunk in chunks:
            keys = self._keys[chunk.sequence]
            if chunk.start != len(keys) or not 0 <= chunk.num_logits <= len(chunk.token_ids) > 0:
                raise ValueError(
                    f"{chunk}: must begin at {len(keys)}, with at least one token, and at most as many logits"
                )
            if chunk.start + len(chunk.token_ids) > self.max_tokens:
                raise ValueError(f"{chunk}: must end within {self.max_tokens} tokens")
            call = self.vocab_size * call_size if self._noisy else 0
            keys += [token_id + call for token_id in chunk.token_ids]
            for end in range(len(keys) - chunk.num_logits + 1, len(keys) + 1):
                logits.append(np.asarray(self._script(keys[:end], self.vocab_size), np.float32)[None])
        return np.concatenate(logits)

    def truncate(self, sequence: int, num_tokens: int) -> None:
        """Keep the first tokens of a sequence."""
        keys = self._keys[sequence]
        if num_tokens > len(keys) or not (self.can_truncate or num_tokens in (0, len(keys))):
            raise ValueError(f"sequence {sequence} of {len(keys)} tokens cannot be cut to {num_tokens}")
        del keys[num_tokens:]

    def fork(self, source: int, target: int, num_tokens: int) -> None:
        """Replace the target by the beginning of the source."""
        self.num_forks += 1
        self._keys[target] = list(self._keys[source])
        self.truncate(target, num_tokens)
