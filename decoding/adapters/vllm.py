"""Our sampler in vLLM, as a logits processor of its V1 engine (the extra `vllm`).

    llm = vllm.LLM(model, logits_processors=["decoding.adapters.vllm:SamplerProcessor"])
    arguments = {"decoding": {"temperature": 0.8, "top_p": 0.9, "seed": 7}}
    llm.generate(prompts, vllm.SamplingParams(temperature=0, extra_args=arguments))

A request that has `decoding` among its extra arguments is drawn by our sampler: the arguments are those of our
SamplingParams. The drawn token is left as the only possible one; other requests are not touched. Logits are copied to
the CPU for it. Written against the published interface of the V1 model runner (vllm.v1.sample.logits_processor); vLLM
itself does not run where this package is tested, so there it was tried against that interface only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from decoding.adapters.rows import OF_ANY_LOOP, check_params, new_state
from decoding.errors import EngineError, ParameterError
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState

ARGUMENT = "decoding"


class _Row:
    """A request: its state, and the list in which vLLM collects its output."""

    def __init__(self, state: SamplingState, output_token_ids: list[int]) -> None:
        self.state = state
        self.output_token_ids = output_token_ids

    def catch_up(self) -> None:
        """Record what vLLM has accepted since the last step; EngineError if it is not what was drawn."""
        drawn, accepted = self.state.output_token_ids, self.output_token_ids
        if drawn != accepted[: len(drawn)] or len(accepted) > len(drawn):
            rule = "asynchronous scheduling and speculative decoding must be off"
            raise EngineError(f"vLLM has {accepted[-3:]} where {drawn[-3:]} was drawn: {rule}")
        if len(accepted) < len(drawn):
            self.state.truncate(len(accepted))  # a step was taken back


class SamplerProcessor(LogitsProcessor):  # type: ignore[misc]
    """Draws for those requests that have our parameters among their extra arguments."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, _Row] = {}
        self._samplers: dict[int, Sampler] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ParameterError, a ValueError, for arguments that our sampler refuses."""
        params_of(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """Return False: the drawn token becomes the most likely one."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests that were removed, added or moved between the rows of the batch."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, sampling_params, prompt_token_ids, output_token_ids in batch_update.added:
            self._rows.pop(index, None)
            params = params_of(sampling_params)
            if params is not None:
                self._rows[index] = _Row(_state(params, prompt_token_ids, output_token_ids), output_token_ids)
        for first, second, direction in batch_update.moved:
            moved, replaced = self._rows.pop(first, None), self._rows.pop(second, None)
            if moved is not None:
                self._rows[second] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self._rows[first] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Draw for our rows of logits [requests, vocab]; leave 0 for the drawn token, and -inf for the others."""
        if not self._rows:
            return logits
        indices = sorted(self._rows)
        for index in indices:
            self._rows[index].catch_up()
        vocab_size = logits.shape[1]
        sampler = self._samplers.setdefault(vocab_size, Sampler(vocab_size, profile="openai"))
        rows = logits[indices].to("cpu", torch.float32).contiguous()
        output = sampler.sample(rows, [self._rows[index].state for index in indices])
        logits[indices] = -torch.inf
        logits[indices, output.token_ids.tolist()] = 0.0
        return logits


def params_of(sampling_params: Any) -> SamplingParams | None:
    """Return the arguments for our sampler in a vLLM request, None if there are none; ParameterError for wrong ones."""
    given = (sampling_params.extra_args or {}).get(ARGUMENT)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ParameterError.single(ARGUMENT, given, "must be a mapping of arguments of SamplingParams")
    unknown = set(given) - set(SamplingParams.__dataclass_fields__)
    if unknown:
        raise ParameterError.single(ARGUMENT, sorted(unknown), "must be arguments of SamplingParams")
    return check_params(SamplingParams(**{"max_tokens": None, **given}), OF_ANY_LOOP)


def _state(params: SamplingParams, prompt: list[int] | None, output: list[int]) -> SamplingState:
    """Return the state of a request, which may come with output if it was preempted."""
    if prompt is None:
        raise ParameterError.single("prompt", None, "must have token ids: embeddings have none")
    state = new_state(params, prompt)
    for token_id in output:
        state.append(token_id)
    return state
