"""A user's code for a strict type checker: the public names with their types."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decoding import BatchSampler, Sampler, SamplerOutput, SamplingParams, SamplingState

params = SamplingParams(temperature=0.8, top_p=0.95, logit_bias={3: -1.0}, bad_words=[[1, 2]])
saved: dict[str, object] = dict(params.to_dict())
again: SamplingParams = SamplingParams.from_dict(params.to_dict())
state: SamplingState = SamplingState(again, [1, 2, 3], choice=1)
fork: SamplingState = SamplingState.from_dict(state.to_dict()).fork(choice=2)
logits: NDArray[np.float32] = np.zeros((2, 50), np.float32)
output: SamplerOutput = Sampler(50, profile="vllm").sample(logits, [state, fork])
token_ids: NDArray[np.int32] = output.token_ids
batch = BatchSampler(50)
names: list[int] = [batch.add(params), batch.add(state)]
back: SamplingState = batch.remove(names[0])
seed: int = back.seed
wrong: str = batch.step(logits).token_ids  # the one error
