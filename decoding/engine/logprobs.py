"""From the sampler's arrays to entries for people: texts of tokens, offsets, alternatives."""

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
    """The sampler's report on one token: log-probability, rank, and the most likely tokens with theirs.

    by_mode: its log-probability in each mode, if there are several.
    by_token_id: log-probabilities of the ids of logprob_token_ids.
    """

    logprob: float
    rank: int
    top: list[tuple[int, float]]
    by_mode: Mapping[LogprobsMode, float] = MappingProxyType({})
    by_token_id: Mapping[int, float] = MappingProxyType({})

    @classmethod
    def from_output(
        cls, output: SamplerOutput, row: int, num_top: int, modes: Sequence[LogprobsMode] = ()
    ) -> TokenScore:
        """Return row `row`, with `num_top` alternatives; other rows of the output may have more."""
        top: list[tuple[int, float]] = []
        if num_top:
            ids = output.top_token_ids[row, :num_top].tolist()
            logprobs = output.top_logprobs[row, :num_top].tolist()
            top = [(token_id, logprob) for token_id, logprob in zip(ids, logprobs, strict=True) if token_id >= 0]
        by_mode = dict(zip(modes, output.all_logprobs[row].tolist(), strict=False)) if len(modes) > 1 else {}
        return cls(float(output.logprobs[row]), int(output.ranks[row]), top, by_mode)


class OffsetCounter:
    """Counts to which character of a text a byte belongs, while the bytes arrive token by token."""

    def __init__(self, before: bytes = b"") -> None:
        """before: the beginning of the text; its last character may be unfinished."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_complete = len(self._decoder.decode(before))

    def add(self, data: bytes) -> int:
        """Return the index of the character that holds the first byte of `data`.

        Without data: of the character that is still unfinished, or that comes next.
        """
        if not data:
            return self._num_complete + max(0, self._num_unfinished() - 1)
        self._num_complete += len(self._decoder.decode(data[:1]))
        offset = self._num_complete + self._num_unfinished() - 1
        self._num_complete += len(self._decoder.decode(data[1:]))
        return offset

    def _num_unfinished(self) -> int:
        """Return how many characters the decoder keeps back; two for the first bytes of a surrogate, which is none."""
        return len(self._decoder.getstate()[0].decode("utf-8", "replace"))


def text_of_bytes(data: bytes) -> str:
    r"""Return bytes as text if they are UTF-8 by themselves, otherwise written out: `bytes:\xe2\x80`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def own_bytes(tokenizer: Tokenizer | None, token_id: int) -> bytes | None:
    """Return the bytes of a token by itself, special or not; None if it has no text."""
    if tokenizer is None or tokenizer.token_text(token_id, skip_special_tokens=False) is None:
        return None
    return tokenizer.token_bytes(token_id, skip_special_tokens=False)


def token_text(tokenizer: Tokenizer | None, token_id: int) -> str:
    """Return the text of a token by itself, special or not; `token_id:7` if it has none."""
    data = own_bytes(tokenizer, token_id)
    return f"token_id:{token_id}" if data is None else text_of_bytes(data)


def token_logprob(
    tokenizer: Tokenizer | None, token_id: int, data: bytes | None, text_offset: int, score: TokenScore | None
) -> TokenLogprob:
    """Return the entry of a token; without a score, that of the first token of a prompt.

    data: the bytes that it adds to the text; None for a token that is not part of the text (a skipped special token,
        one that ended the sequence), whose entry has the token's own text.
    """
    own = own_bytes(tokenizer, token_id) if tokenizer is None or data is None else data
    text = f"token_id:{token_id}" if own is None else text_of_bytes(own)
    if score is None:
        return TokenLogprob(text, token_id, None, None, text_offset, None, data=own)
    top: dict[str, float] = {}
    for alternative, logprob in score.top:  # most likely first: of equal texts the first is the larger
        top.setdefault(text if alternative == token_id else token_text(tokenizer, alternative), logprob)
    top[text] = score.logprob
    return TokenLogprob(
        text, token_id, score.logprob, top, text_offset, score.rank, score.by_mode, own, score.by_token_id
    )
