"""BeamSearch: the beams of one prompt on a model, their keys and values in shared blocks.

A beam search has a KV cache of its own, as large as it needs, and takes the model for one pass at a time, so that other
requests run between its steps. Beams that begin alike share blocks; a block is copied when one of its beams writes to
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from decoding.engine.beam_group import Beam, BeamGroup, Finished
from decoding.engine.beam_params import BeamSearchParams
from decoding.engine.block_manager import BlockManager
from decoding.engine.block_table import BlockTable
from decoding.engine.candidate import Candidate
from decoding.engine.logprobs import TokenScore
from decoding.engine.outputs import Choice, CompletionResult, Usage
from decoding.engine.request import Request
from decoding.engine.settings import DEFAULT_CACHE_BYTES
from decoding.engine.transcript import NO_PREFIX
from decoding.errors import ParameterError
from decoding.models.batch import BLOCK_SIZE, ForwardBatch, Logits, Model
from decoding.sampling.sampler import Sampler

if TYPE_CHECKING:
    from decoding.engine.shared_engine import SharedEngine


class BeamSearch:
    """One prompt's beam search, step by step.

    search = BeamSearch(engine, request, params)
    while not search.is_done:
        search.step()
    result = search.result(name)
    """

    def __init__(self, engine: SharedEngine, request: Request, params: BeamSearchParams) -> None:
        """request: of `params.sampling`. Raises ParameterError if the keys and values would not fit the memory."""
        self._engine = engine
        self._request = request
        self._params = params
        self._prompt = request.token_ids
        self._max_tokens = request.max_output_tokens
        ends = dict.fromkeys((*params.stop_token_ids, *(() if params.ignore_eos else request.eos_token_ids)))
        self._root = Beam()
        self._groups = [
            BeamGroup(
                self._root,
                params.beam_width // params.num_beam_groups,
                max_tokens=self._max_tokens,
                end_token_ids=tuple(ends),
                length_penalty=params.length_penalty,
                early_stopping=params.early_stopping,
            )
            for _ in range(params.num_beam_groups)
        ]
        self._num_considered = max(2, 1 + len(ends)) * params.beam_width + params.beam_width
        self._num_computed = 0
        self._rope_length = len(self._prompt)
        self._tables: dict[Beam, BlockTable] = {self._root: BlockTable()}
        self._open_memory(engine.model)

    def _open_memory(self, model: Model) -> None:
        num_prompt, num_tokens = len(self._prompt), len(self._prompt) + self._max_tokens
        width, border = self._params.beam_width, model.rope_border
        is_recomputed = border is not None and num_prompt <= border < num_tokens
        shared = 0 if is_recomputed else num_prompt // BLOCK_SIZE
        num_blocks = shared + width * (num_tokens // BLOCK_SIZE - shared + 2)
        most = self._engine.settings.kv_cache_bytes or DEFAULT_CACHE_BYTES
        needed = num_blocks * model.new_cache(1).block_bytes
        if needed > most:
            rule = (
                f"needs {needed:,} bytes for keys and values with this prompt and max_tokens: must be at most {most:,}"
            )
            raise ParameterError.single("beam_width", width, rule)
        self._cache = model.new_cache(num_blocks)
        self._blocks = BlockManager(num_blocks, BLOCK_SIZE, self._cache.copy_block, prefix_cache=False)

    @property
    def is_done(self) -> bool:
        """True if every group has ended."""
        return all(group.is_done for group in self._groups)

    @property
    def num_blocks_live(self) -> int:
        """Blocks that beams refer to."""
        return self._blocks.num_live

    def step(self) -> None:
        """Run one pass of the model: a chunk of the prompt, or one token of every running beam.

        Raises LogitsError if the logits are not finite.
        """
        if self._num_computed < len(self._prompt):
            most = self._engine.settings.max_batched_tokens
            end = min(len(self._prompt), self._num_computed + most)
            logits = self._forward([self._root], end)
            if end < len(self._prompt):
                return
        else:
            length = self._num_computed + 1
            self._restart_outgrown(length)
            logits = self._forward(list(self._tables), length)
        self._extend(logits)

    def result(self, model_name: str) -> CompletionResult:
        """Return the best hypotheses of all groups, the best first, as choices with their scores."""
        finished = sorted((one for group in self._groups for one in group.finished), key=lambda one: -one.score)
        best = finished[: self._params.num_returned]
        usage = Usage(len(self._prompt), sum(len(one.beam.token_ids) for one in best))
        choices = [self._choice(index, one) for index, one in enumerate(best)]
        return CompletionResult(choices, usage, list(self._prompt), model_name, origin=self._request)

    def _choice(self, index: int, one: Finished) -> Choice:
        candidate = Candidate(self._request, index, self._engine.tokenizer, NO_PREFIX)
        num_top = self._params.logprobs
        for token_id, score in zip(one.beam.token_ids, one.beam.scores, strict=True):
            reported = None if num_top is None else score._replace(top=score.top[:num_top])
            candidate.append(token_id, reported, score.logprob)
        return candidate.finished_choice(beam_score=one.score)

    def _extend(self, logits: Logits) -> None:
        """Let each group choose its next beams, one after another, and give these their blocks."""
        rows = {beam: row for row, beam in enumerate(self._tables)}
        ids, scores = self._scored(logits)
        chosen: Counter[int] = Counter()
        for group in self._groups:
            if group.is_done:
                continue
            wanted = [rows[beam] for beam in group.running]
            weight = self._params.diversity_penalty
            group.step([scores[row] for row in wanted], [ids[row] for row in wanted], chosen, weight)
            chosen.update(beam.token_ids[-1] for beam in group.running)
        before, self._tables = self._tables, {}
        for group in self._groups:
            for beam in [] if group.is_done else group.running:
                if beam.parent is not None:
                    self._tables[beam] = self._blocks.fork(before[beam.parent], self._num_computed)
        for table in before.values():
            self._blocks.free(table)

    def _scored(self, logits: Logits) -> tuple[list[list[int]], list[list[TokenScore]]]:
        """Return for each row its most likely tokens with their log-probabilities, as many as a search looks at."""
        num_top = min(self._num_considered, logits.shape[1])
        output = self._sampler.score(logits, [0] * len(logits), num_top=num_top)
        ids, scores = [], []
        for row_ids, row_logprobs in zip(output.top_token_ids.tolist(), output.top_logprobs.tolist(), strict=True):
            top = [pair for pair in zip(row_ids, row_logprobs, strict=True) if pair[0] >= 0 and pair[1] > -np.inf]
            ids.append([token_id for token_id, _ in top])
            shown = top[: self._params.logprobs or 0]
            scores.append([TokenScore(logprob, rank, shown) for rank, (_, logprob) in enumerate(top, 1)])
        return ids, scores

    @cached_property
    def _sampler(self) -> Sampler:
        vocab_size, tokenizer = self._engine.model.config.vocab_size, self._engine.tokenizer
        num_valid = vocab_size if tokenizer is None else min(vocab_size, tokenizer.vocab_size)
        return Sampler(vocab_size, num_valid_tokens=num_valid)

    def _restart_outgrown(self, length: int) -> None:
        """Compute all beams again, once, if the model has other rotary factors for texts of this length."""
        border = self._engine.model.rope_border
        if border is None or not length > border >= self._rope_length:
            return
        self._rope_length = length
        for beam, table in self._tables.items():
            self._blocks.free(table)
            self._forward([beam], length - 1, start=0)

    def _forward(self, beams: Sequence[Beam], end: int, start: int | None = None) -> Logits:
        """Compute the tokens of beams up to `end`; return the logits of the last one of each."""
        start = self._num_computed if start is None else start
        for beam in beams:
            if not self._blocks.reserve(self._tables[beam], start, end):
                raise AssertionError("a beam search has blocks for all of its beams")
        count, num_new = len(beams), end - start
        tokens = [token_id for beam in beams for token_id in self._tokens(beam, start, end)]
        batch = ForwardBatch(
            token_ids=np.array(tokens, np.int32),
            num_new=np.full(count, num_new, np.int32),
            start=np.full(count, start, np.int32),
            block_tables=[self._tables[beam].array for beam in beams],
            rope_lengths=np.full(count, self._rope_length, np.int32),
            logits_tokens=np.arange(num_new - 1, count * num_new, num_new, dtype=np.int32),
        )
        with self._engine.exclusive() as model:
            logits = model.forward(batch, self._cache)
        self._num_computed = end
        return logits

    def _tokens(self, beam: Beam, start: int, end: int) -> list[int]:
        """Return the tokens `start` to `end - 1` of a beam, prompt and output."""
        if start >= len(self._prompt):
            return beam.token_ids[start - len(self._prompt) : end - len(self._prompt)]
        return [*self._prompt, *beam.token_ids][start:end]
