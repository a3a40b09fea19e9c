"""The float64 reference of the whole pipeline, in plain numpy: the definition of every stage, written to be read.

    row = sample_row(Row(logits=logits, params=SamplingParams(top_p=0.9), seed=7))
    row.token_id, row.probabilities, logprobs(row, "raw"), rank(row, "raw", row.token_id)

Neither it nor the kernel imports the other; tests compare the two. The forward pass of a network, which
makes the logits, is defined in `decoding.reference.forward` in the same way.
"""

from decoding.reference.draw import possible_tokens
from decoding.reference.mirostat import next_mu
from decoding.reference.philox import philox4x64, random_words
from decoding.reference.row import Row, total_order
from decoding.reference.sample import log_softmax, logprobs, rank, sample_row, top_token_ids

__all__ = [
    "Row",
    "log_softmax",
    "logprobs",
    "next_mu",
    "philox4x64",
    "possible_tokens",
    "random_words",
    "rank",
    "sample_row",
    "top_token_ids",
    "total_order",
]
