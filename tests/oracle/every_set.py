"""Results of a batch on every instruction set."""

from decoding.sampling.kernel import active_isa, available_isas, forced_isa
from decoding.testing import assert_matches_reference

ARRAYS = (
    *("token_ids", "logprobs", "all_logprobs", "raw_logprobs", "ranks", "surprises"),
    *("top_token_ids", "top_logprobs", "all_top_logprobs"),
)


def vars_of(output):
    """Return all arrays and the errors of a SamplerOutput, by name."""
    return {name: getattr(output, name) for name in (*ARRAYS, "errors")}


def bits(output):
    """Return every array of a SamplerOutput as bytes, and the errors as text."""
    arrays = {k: v.tobytes() for k, v in vars_of(output).items() if k != "errors"}
    return arrays | {"errors": [repr(error) for error in output.errors]}


def all_bits(sampler, logits, states, isa):
    """Return the results of a batch on an instruction set: the bits of its output and of its probabilities."""
    with forced_isa(isa):
        assert active_isa() == isa
        output = sampler.sample(logits, states, commit=False, on_error="status")
        drawn = [row for row, error in enumerate(output.errors) if error is None]
        return bits(output), [sampler.probabilities(logits[row : row + 1], [states[row]]).tobytes() for row in drawn]


def assert_every_set_matches(sampler, logits, states):
    """Assert that the first instruction set gives the reference's results, and every other one the bits of the first.

    So the reference, which takes most of the time, computes each row once.
    """
    first, *others = available_isas()
    with forced_isa(first):
        assert active_isa() == first
        assert_matches_reference(sampler, logits, states)
    expected = all_bits(sampler, logits, states, first)
    for isa in others:
        assert all_bits(sampler, logits, states, isa) == expected, isa
