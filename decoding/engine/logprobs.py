"""From the sampler's arrays to entries that people read: token texts, offsets, rivals."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from decoding.engine.outputs import TokenLogprob
from decoding.sampling.sampler import SamplerOutput
from decoding.text.tokenizer import Tokenizer
from decoding.types import LogprobsMode


class TokenScore(NamedTuple):
    """What the sampler says of one token: log-probability, rank, and the most likely tokens with theirs.

    by_mode: its log-probability in each mode, where there are several.
    """

    logprob: float
    rank: int
    top: list[tuple[int, float]]
    by_mode: Mapping[LogprobsMode, float] = MappingProxyType({})

    @classmethod
    def from_output(
        cls, output: SamplerOutput, row: int, num_top: int, modes: Sequence[LogprobsMode] = ()
    ) -> TokenScore:
        """Row `row`, with as many rivals as its request asked for (another row may have asked for more)."""
        ids = output.top_token_ids[row, :num_top].tolist()
        logprobs = output.top_logprobs[row, :num_top].tolist()
        top = [(token_id, logprob) for token_id, logprob in zip(ids, logprobs, strict=True) if token_id >= 0]
        by_mode = dict(zip(modes, output.all_logprobs[row].tolist(), strict=False)) if len(modes) > 1 else {}
        return cls(float(output.logprobs[row]), int(output.ranks[row]), top, by_mode)


class OffsetCounter:
    """Which character of a text a byte belongs to, while the bytes arrive token by token."""

    def __init__(self, before: bytes = b"") -> None:
        """`before`: what the text begins with; its last character may be unfinished."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_complete = len(self._decoder.decode(before))

    def add(self, data: bytes) -> int:
        """The index of the character that holds the first byte of `data`.

        Without data: of the character that is still unfinished, or that comes next.
        """
        if not data:
            return self._num_complete + max(0, self._num_unfinished() - 1)
        self._num_complete += len(self._decoder.decode(data[:1]))
        offset = self._num_complete + self._num_unfinished() - 1
        self._num_complete += len(self._decoder.decode(data[1:]))
        return offset

    def _num_unfinished(self) -> int:
        """Characters that the decoder keeps back; two for a surrogate's first bytes, which are none any more."""
        return len(self._decoder.getstate()[0].decode("utf-8", "replace"))


def text_of_bytes(data: bytes) -> str:
    r"""A token's text where it is UTF-8 by itself, else its bytes written out: `bytes:\xe2\x80`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def rival_text(tokenizer: Tokenizer | None, token_id: int) -> str:
    """How a token that was not drawn is written: by itself, special or not; by its id where it has no text at all."""
    if tokenizer is None or tokenizer.token_text(token_id, skip_special_tokens=False) is None:
        return f"token_id:{token_id}"
    return text_of_bytes(tokenizer.token_bytes(token_id, skip_special_tokens=False))


def token_logprob(
    tokenizer: Tokenizer | None, token_id: int, data: bytes, text_offset: int, score: TokenScore | None
) -> TokenLogprob:
    """The entry of a token that added `data` to the text; without a score, the first of a prompt."""
    text = rival_text(None, token_id) if tokenizer is None else text_of_bytes(data)
    if score is None:
        return TokenLogprob(text, token_id, None, None, text_offset, None)
    top: dict[str, float] = {}
    for rival, logprob in score.top:  # most likely first: of equal texts the first is the larger
        top.setdefault(text if rival == token_id else rival_text(tokenizer, rival), logprob)
    top[text] = score.logprob
    return TokenLogprob(text, token_id, score.logprob, top, text_offset, score.rank, score.by_mode)
