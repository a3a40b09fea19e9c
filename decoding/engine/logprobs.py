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

_NO_MODES: Mapping[LogprobsMode, float] = MappingProxyType({})
_NO_IDS: Mapping[int, float] = MappingProxyType({})


class TokenScore(NamedTuple):
    """The sampler's report on one token: log-probability, rank, and the most likely tokens with theirs.

    by_mode: its log-probability in each mode, if there are several.
    by_token_id: log-probabilities of the ids of logprob_token_ids.
    """

    logprob: float
    rank: int
    top: list[tuple[int, float]]
    by_mode: Mapping[LogprobsMode, float] = _NO_MODES
    by_token_id: Mapping[int, float] = _NO_IDS


class OutputScores:
    """The scores in a sampler's output, converted to Python numbers once for all of its rows."""

    def __init__(self, output: SamplerOutput) -> None:
        self._output = output
        self._logprobs: list[float] = output.logprobs.tolist()
        self._ranks: list[int] = output.ranks.tolist()

    def of_row(
        self, row: int, num_top: int, modes: Sequence[LogprobsMode] = (), chosen: Sequence[int] = ()
    ) -> TokenScore:
        """Return the score of the token of a row, as far as the row's state asks for it.

        num_top: number of alternatives; other rows of the output may have more. chosen: the row's logprob_token_ids.
        """
        if not num_top and not chosen and len(modes) < 2:
            return TokenScore(self._logprobs[row], self._ranks[row], [])
        output, top = self._output, list[tuple[int, float]]()
        by_mode: Mapping[LogprobsMode, float] = _NO_MODES
        by_token_id: Mapping[int, float] = _NO_IDS
        if num_top:
            ids = output.top_token_ids[row, :num_top].tolist()
            logprobs = output.top_logprobs[row, :num_top].tolist()
            top = [(token_id, logprob) for token_id, logprob in zip(ids, logprobs, strict=True) if token_id >= 0]
        if len(modes) > 1:
            by_mode = dict(zip(modes, output.all_logprobs[row].tolist(), strict=False))
        if chosen:
            by_token_id = dict(zip(chosen, output.chosen_logprobs[row].tolist(), strict=False))  # other rows have more
        return TokenScore(self._logprobs[row], self._ranks[row], top, by_mode, by_token_id)

    def raw_logprob(self, row: int) -> float:
        """Return the raw log-probability of the token of a row."""
        return float(self._output.raw_logprobs[row])


class OffsetCounter:
    """Counts to which character of a text a byte belongs, while the bytes arrive token by token."""

    def __init__(self, before: bytes = b"") -> None:
        """before: the beginning of the text; its last character may be unfinished."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_complete = len(self._decoder.decode(before))
        self._has_unfinished = self._num_unfinished() > 0

    def add(self, data: bytes) -> int:
        """Return the index of the character that holds the first byte of `data`.

        Without data: of the character that is still unfinished, or that comes next.
        """
        if data.isascii() and not self._has_unfinished:
            offset = self._num_complete
            self._num_complete += len(data)
            return offset
        if not data:
            return self._num_complete + self._num_unfinished() - 1
        self._num_complete += len(self._decoder.decode(data[:1]))
        offset = self._num_complete + self._num_unfinished() - 1
        self._num_complete += len(self._decoder.decode(data[1:]))
        self._has_unfinished = self._num_unfinished() > 0
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
    logprob, rank, alternatives, by_mode, by_token_id = score
    top: dict[str, float] = {}
    for other_id, other in alternatives:  # most likely first: of equal texts the first is the larger
        top.setdefault(text if other_id == token_id else token_text(tokenizer, other_id), other)
    top[text] = logprob
    return TokenLogprob(text, token_id, logprob, top, text_offset, rank, by_mode, own, by_token_id)
