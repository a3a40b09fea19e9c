"""Inputs of samplers and servers, as Hypothesis strategies.

* rows: `logits_rows`, `logits_batches`, `token_ids`, `bitmasks`, `vocab_sizes`;
* problems: `sampling_params`, `sampling_states`, `sampling_problems`; `invalid_sampling_params` with the reasons;
* texts: `texts`, `vocabularies` whose tokens split characters, `stop_sets` that overlap, `chunkings`, `tokenizations`;
* traffic: `request_mixes` with arrivals and aborts.

All of them shrink to the smallest thing of their kind, and their corners are reached in a few hundred examples.
"""

from decoding.testing.strategies.invalid import INVALID_VALUES, InvalidParams, invalid_sampling_params
from decoding.testing.strategies.problems import SamplingProblem, sampling_params, sampling_problems, sampling_states
from decoding.testing.strategies.rows import bitmasks, logits_batches, logits_rows, token_ids, vocab_sizes
from decoding.testing.strategies.texts import chunkings, stop_sets, texts, tokenizations, vocabularies
from decoding.testing.strategies.traffic import Arrival, request_mixes

__all__ = [
    "INVALID_VALUES",
    "Arrival",
    "InvalidParams",
    "SamplingProblem",
    "bitmasks",
    "chunkings",
    "invalid_sampling_params",
    "logits_batches",
    "logits_rows",
    "request_mixes",
    "sampling_params",
    "sampling_problems",
    "sampling_states",
    "stop_sets",
    "texts",
    "token_ids",
    "tokenizations",
    "vocab_sizes",
    "vocabularies",
]
