"""Oracles: assertions that hold for every correct sampler.

    assert_matches_reference(my_sampler, logits, SamplingParams(top_p=0.9), profile="vllm")
    assert_distribution(token_ids, probabilities)
    assert_independent(token_ids, probabilities)        # [sequences, length]: draws are independent
    assert_sequences(samples, sequence_distribution(next_logits, prompt, params, num_tokens=3))
    assert_logprobs(reported, logits, params)
    assert_ranking(logprobs_of_candidates, returned)

In statistical assertions, `alpha` is the probability that a correct sampler fails: one in a million by
default, so that verdicts are stable. Every AssertionError has the observation and the rule.
"""

from decoding.testing.assertions.distribution import ALPHA, assert_distribution, distribution_p_values
from decoding.testing.assertions.independence import assert_independent, independence_p_values
from decoding.testing.assertions.kernel import reference_row
from decoding.testing.assertions.reference import History, SamplerFunction, assert_matches_reference
from decoding.testing.assertions.reports import assert_logprobs, assert_ranking
from decoding.testing.assertions.sequences import assert_sequences, sequence_distribution, text_distribution

__all__ = [
    "ALPHA",
    "History",
    "SamplerFunction",
    "assert_distribution",
    "assert_independent",
    "assert_logprobs",
    "assert_matches_reference",
    "assert_ranking",
    "assert_sequences",
    "distribution_p_values",
    "independence_p_values",
    "reference_row",
    "sequence_distribution",
    "text_distribution",
]
