"""Define peers that do the same work, if they are installed: one class each, the same logits, the same parameters.

`prepare(work, row)` returns a call that samples one token from the row, or None if the peer lacks that work.
`prepare` makes everything that a server would keep between tokens (a sampler chain, a list of processors).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from decoding.cli.measure import Work, make_states
from decoding.params import SamplingParams

Call = Callable[[], object]


class Peer(Protocol):
    """A sampler with its own column in the tables."""

    name: ClassVar[str]

    def prepare(self, work: Work, row: NDArray[np.float32]) -> Call | None:
        """Return a call that draws one token, or None."""
        ...


class Numpy:
    """A straightforward sampler: argmax; or softmax, sort, cumulative sum, search."""

    name = "numpy"

    def __init__(self) -> None:
        self.version = np.__version__

    def prepare(self, work: Work, row: NDArray[np.float32]) -> Call | None:
        """Return a call, or None for works with penalties, biases or log-probabilities."""
        if work.has_edits:
            return None
        params, rng = SamplingParams(**work.settings), np.random.default_rng(0)
        if params.temperature == 0:
            return lambda: np.argmax(row)
        return lambda: self._sample(params, row, rng)

    def _sample(self, params: SamplingParams, row: NDArray[np.float32], rng: np.random.Generator) -> int:
        ids = np.arange(len(row))
        if params.top_k is not None:
            ids = np.argpartition(row, -params.top_k)[-params.top_k :]  # [k]
        p = np.exp((row[ids] - row.max()) / np.float32(params.temperature))
        if params.top_p < 1:
            order = np.argsort(-p)
            ids, p = ids[order], p[order]
            p = p[: int(np.searchsorted(np.cumsum(p), params.top_p * p.sum())) + 1]  # [kept]
        p = np.where(p < params.min_p * p.max(), 0, p)
        running = np.cumsum(p)
        return int(ids[np.searchsorted(running, rng.random() * running[-1])])


class LlamaCpp:
    """llama.cpp's sampler chain, by llama-cpp-python; temperature first, as here. It has no log-probabilities."""

    name = "llama.cpp"

    def __init__(self) -> None:
        self._lib: Any = importlib.import_module("llama_cpp")
        self.version = self._lib.__version__

    def prepare(self, work: Work, row: NDArray[np.float32]) -> Call | None:
        """Return a call that fills in the candidates anew for each token, as llama.cpp's own loop does."""
        chain = self._chain(work, len(row))
        ids = np.arange(len(row), dtype=np.int32)
        candidates = np.empty(len(row), [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        pointer = candidates.ctypes.data_as(self._lib.llama_token_data_p)

        def call() -> int:
            candidates["id"], candidates["logit"], candidates["p"] = ids, row, 0
            array = self._lib.llama_token_data_array(pointer, len(row), -1, False)
            self._lib.llama_sampler_apply(chain, self._lib.ctypes.byref(array))
            return int(candidates["id"][array.selected])

        return call

    def _chain(self, work: Work, vocab_size: int) -> Any:
        lib, params = self._lib, SamplingParams(**work.settings)
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for stage in self._edits(work, vocab_size) if work.has_edits else []:
            lib.llama_sampler_chain_add(chain, stage)
        stages = [lib.llama_sampler_init_greedy()] if params.temperature == 0 else self._stages(params)
        for stage in stages:
            lib.llama_sampler_chain_add(chain, stage)
        return chain

    def _stages(self, params: SamplingParams) -> list[Any]:
        lib = self._lib
        return [
            lib.llama_sampler_init_temp(params.temperature),
            *([lib.llama_sampler_init_top_k(params.top_k)] if params.top_k else []),
            *([lib.llama_sampler_init_top_p(params.top_p, 1)] if params.top_p < 1 else []),
            *([lib.llama_sampler_init_min_p(params.min_p, 1)] if params.min_p else []),
            lib.llama_sampler_init_dist(0),
        ]

    def _edits(self, work: Work, vocab_size: int) -> list[Any]:
        lib, (state,) = self._lib, make_states(work, vocab_size, 1)
        p, tokens = state.params, [*state.prompt_token_ids, *state.output_token_ids]
        penalties = lib.llama_sampler_init_penalties(
            vocab_size, len(tokens), p.repetition_penalty, p.frequency_penalty, p.presence_penalty
        )
        for token_id in tokens:
            lib.llama_sampler_accept(penalties, token_id)
        biases = (lib.llama_logit_bias * len(p.logit_bias))(*p.logit_bias)
        return [penalties, lib.llama_sampler_init_logit_bias(vocab_size, len(biases), biases)]


class Transformers:
    """The logits processors of transformers.generate, then softmax and multinomial, with torch on one thread."""

    name = "transformers"

    def __init__(self) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._lib: Any = importlib.import_module("transformers.generation.logits_process")
        self._torch.set_num_threads(1)
        self.version = f"{importlib.import_module('transformers').__version__}, torch {self._torch.__version__}"

    def prepare(self, work: Work, row: NDArray[np.float32]) -> Call | None:
        """Return a call with the repetition penalty and biases; transformers has no frequency or presence penalty."""
        torch = self._torch
        params, scores = SamplingParams(**work.settings), torch.from_numpy(row)[None]  # [1, vocab]
        if params.temperature == 0:
            return lambda: torch.argmax(scores, dim=-1)
        (state,) = make_states(work, len(row), 1)
        ids = torch.tensor([[*state.prompt_token_ids, *state.output_token_ids]], dtype=torch.int64)
        processors = self._lib.LogitsProcessorList([*self._edits(work, state.params), *self._warpers(params)])

        def call() -> object:
            probabilities = torch.softmax(processors(ids, scores), dim=-1)
            chosen = torch.multinomial(probabilities, num_samples=1)
            if params.logprobs:
                torch.topk(torch.log_softmax(scores, dim=-1), params.logprobs)
            return chosen

        return call

    def _edits(self, work: Work, params: SamplingParams) -> list[Any]:
        if not work.has_edits:
            return []
        biases = {(token_id,): value for token_id, value in dict(params.logit_bias).items()}
        penalty = self._lib.RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
        return [penalty, self._lib.SequenceBiasLogitsProcessor(biases)]

    def _warpers(self, params: SamplingParams) -> list[Any]:
        lib = self._lib
        return [
            lib.TemperatureLogitsWarper(params.temperature),
            *([lib.TopKLogitsWarper(params.top_k)] if params.top_k else []),
            *([lib.TopPLogitsWarper(params.top_p)] if params.top_p < 1 else []),
            *([lib.MinPLogitsWarper(params.min_p)] if params.min_p else []),
        ]


def installed_peers() -> tuple[list[Any], list[str]]:
    """Return the peers that can be imported, and a line for each that cannot."""
    peers: list[Any] = []
    notes: list[str] = []
    for peer in (Numpy, LlamaCpp, Transformers):
        try:
            peers.append(peer())
        except ImportError as error:
            notes.append(f"{peer.name}: not installed ({error})")
    return peers, notes
