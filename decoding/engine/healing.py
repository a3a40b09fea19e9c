"""Token healing: the model's own distribution over what follows a prompt, given the prompt's last bytes.

The prompt's last tokens are taken back. The text then has to begin with their bytes, the *remainder*, but by any
tokens: first with tokens that lie within it, then with one that reaches its end or beyond (Lundberg 2023 takes back one
token and has it covered by one). With p the model's probability of a token after the tokens before it, and V(path) the
probability that the text goes on with what the remainder has behind that path, a token t after a path has

    p(t | path) * V(path + t) / V(path),    V(path) = sum over t of p(t | path) * V(path + t),
    V = 1 where the remainder is covered, and 0 where the bytes differ from it.

So its logit is the model's plus ln V(path + t), or -inf. The pipeline gets that row in place of the model's. V comes
from a search over the paths within the remainder, most likely first. It ends when all paths that were not looked at
have less than 2^-24 of the probability of those that were. exp and ln are correctly rounded (decimal), so V has the
same bits everywhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import TypeAlias

import numpy as np

from decoding.engine.grammar import num_words
from decoding.engine.token_index import TokenIndex
from decoding.errors import ParameterError
from decoding.models.batch import Logits
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState

MAX_ROWS = 512
"""Limit on the rows of logits of one search; beyond that it is an error."""

_NEGLIGIBLE = Decimal(2) ** -24
_CONTEXT = Context(prec=25)
_SCORED = SamplingParams(logprobs=0, logprobs_mode=("raw", "penalized"), seed=0)

Path: TypeAlias = tuple[int, ...]
RowBehind: TypeAlias = Callable[[Path], Logits]
"""Returns the model's logits [vocab] after the prompt and these tokens."""


def num_taken_back(token_ids: Sequence[int], pieces: Sequence[bytes], index: TokenIndex) -> int:
    """Return how many of a prompt's last tokens to take back: all whose bytes could begin one longer token.

    The first token stays.

    pieces: the bytes of each token; b"" for a token without text; neither it nor any token before it is taken back.
    """
    count, tail, taken = 0, b"", 0
    while count < len(token_ids) - 1 and len(tail) < index.max_length:
        piece = pieces[len(token_ids) - 1 - count]
        if not piece:
            break
        count += 1
        tail = piece + tail
        if any(index.is_proper_beginning(tail[start:]) for start in range(len(piece))):
            taken = count
    return taken


@dataclass(frozen=True, slots=True)
class Remainder:
    """The end of a prompt that was taken back.

    token_ids: its tokens in the prompt. data: their bytes. ending_ids: tokens that end a sequence, and spell nothing.
    """

    token_ids: Path
    data: bytes
    index: TokenIndex
    ending_ids: frozenset[int]
    vocab_size: int

    def within(self, start: int) -> list[tuple[int, int]]:
        """Return (token, its end) for the tokens that lie within the remainder from byte `start` on."""
        ends = range(start + 1, len(self.data))
        return [(token_id, end) for end in ends for token_id in self._without_ends(self.data[start:end], exact=True)]

    def covering(self, start: int) -> list[int]:
        """Return the tokens that spell the remainder from byte `start` on, and perhaps more."""
        return self._without_ends(self.data[start:], exact=False)

    def _without_ends(self, data: bytes, *, exact: bool) -> list[int]:
        found = self.index.spelling(data) if exact else self.index.beginning_with(data)
        return [token_id for token_id in found if token_id not in self.ending_ids]


class Healing:
    """The conditioned rows of one request, for all of its candidates.

    remainder: the bytes that its text has to begin with.
    """

    def __init__(self, remainder: Remainder) -> None:
        self.remainder = remainder
        self._search: Search | None = None

    @property
    def is_searched(self) -> bool:
        """Return True once `search` has run."""
        return self._search is not None

    def search(self, first: Logits, sampler: Sampler, row_behind: RowBehind) -> None:
        """Find V, given the logits behind the prompt. Raises LogitsError for a row that is not finite."""
        search = Search(self.remainder, sampler, row_behind)
        search.run(first)
        self._search = search

    def condition(self, row: Logits, path: Sequence[int], num_bytes: int) -> Logits:
        """Return the row of the next token, given that of the model, the tokens so far and their bytes."""
        if self._search is None:
            raise AssertionError("the search has not run")
        conditioned = np.full_like(row, -np.inf)
        covering = self.remainder.covering(num_bytes)
        conditioned[covering] = row[covering]
        for token_id, _ in self.remainder.within(num_bytes):
            value = self._search.log_value((*path, token_id))
            if value is not None:
                conditioned[token_id] = row[token_id] + np.float32(value)
        return conditioned


class _Node:
    """A path within the remainder: its end in bytes, its probability, and the probabilities of the tokens behind it."""

    def __init__(self, end: int, weight: Decimal) -> None:
        self.end = end
        self.weight = weight
        self.covered = Decimal(0)
        self.children: list[tuple[Path, Decimal]] = []


class Search:
    """Looks at the paths within a remainder, most likely first."""

    def __init__(self, remainder: Remainder, sampler: Sampler, row_behind: RowBehind) -> None:
        self._remainder = remainder
        self._sampler = sampler
        self._row_behind = row_behind
        self._nodes: dict[Path, _Node] = {}
        self._open: list[tuple[Decimal, Path, int]] = [(Decimal(-1), (), 0)]
        self._covered = Decimal(0)
        self._values: dict[Path, Decimal] = {}

    def run(self, first: Logits) -> None:
        """Look at paths until the others are negligible."""
        with localcontext(_CONTEXT):
            self._run(first)
            self._values = self._summed()

    def _run(self, first: Logits) -> None:
        while self._open and -sum(weight for weight, _, _ in self._open) > self._covered * _NEGLIGIBLE:
            if len(self._nodes) == MAX_ROWS:
                rule = f"takes more than {MAX_ROWS} rows of logits for the end of this prompt"
                raise ParameterError.single("token_healing", self._remainder.data, rule)
            weight, path, end = heapq.heappop(self._open)
            self._look(path, _Node(end, -weight), self._row_behind(path) if path else first)

    def log_value(self, path: Path) -> float | None:
        """Return ln V of a path; None if it is 0, or negligible."""
        value = self._values.get(path)
        return float(value.ln(_CONTEXT)) if value else None

    def _summed(self) -> dict[Path, Decimal]:
        """Return V of each path that was looked at; longer paths come first."""
        values: dict[Path, Decimal] = {}
        for path in sorted(self._nodes, key=len, reverse=True):
            node = self._nodes[path]
            values[path] = node.covered + sum(share * values.get(child, 0) for child, share in node.children)
        return values

    def _look(self, path: Path, node: _Node, row: Logits) -> None:
        within = self._remainder.within(node.end)
        covering = self._remainder.covering(node.end)
        shares, node.covered = self._probabilities(row, [token_id for token_id, _ in within], covering)
        for (token_id, end), share in zip(within, shares, strict=True):
            child = (*path, token_id)
            node.children.append((child, share))
            if share:
                heapq.heappush(self._open, (-node.weight * share, child, end))
        self._nodes[path] = node
        self._covered += node.weight * node.covered

    def _probabilities(self, row: Logits, within: list[int], covering: list[int]) -> tuple[list[Decimal], Decimal]:
        """Return the probability of each token within, and that of all covering tokens together.

        The latter follows from one covering token's log-probabilities among all tokens and among the covering ones.
        """
        together = Decimal(0)
        best = covering[int(np.argmax(row[covering]))] if covering else None
        if best is not None and row[best] > -np.inf:
            raw, among = map(Decimal, self._scored(row, [best], covering)[0].tolist())
            together = (raw - among).exp()
        raws = self._scored(row, within, None)[:, 0].tolist()
        return [Decimal(raw).exp() if raw > -np.inf else Decimal(0) for raw in raws], together

    def _scored(self, row: Logits, token_ids: list[int], allowed: list[int] | None) -> Logits:
        """Return the log-probabilities of tokens among all, and among those allowed [tokens, 2]."""
        words = None
        if allowed is not None:
            words = np.zeros(num_words(self._remainder.vocab_size), np.uint32)
            np.bitwise_or.at(words, np.array(allowed) // 32, np.uint32(1) << (np.array(allowed) % 32).astype(np.uint32))
        states = []
        for token_id in token_ids:
            state = SamplingState(_SCORED)
            state.force(token_id)
            state.bitmask = words
            states.append(state)
        if not states:
            return np.empty((0, 2), np.float32)
        return self._sampler.sample(np.stack([row] * len(states)), states, commit=False).all_logprobs
