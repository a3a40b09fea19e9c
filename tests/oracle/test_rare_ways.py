"""Rare code paths of the kernel, which random rows do not take."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from decoding import Sampler, SamplingParams, SamplingState
from decoding.errors import EmptySupportError, NonFiniteLogitsError
from decoding.sampling.kernel import Kernel, KernelRow, active_isa, available_isas, force_isa
from decoding.testing import assert_matches_reference
from decoding.types import LogprobsMode

pytestmark = pytest.mark.usefixtures("isa")

VOCAB_SIZE = 40_000
SAMPLED = (np.arange(192) * (VOCAB_SIZE - 16) // 192)[:, np.newaxis] + np.arange(16)
"""Indices of the values that the search for top_p samples: dk_sample_values in csrc/sampling/row_view.c."""


def too_many_in_the_bracket(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a row in which a fifth of the tokens has 30 % of the mass and the rest are ties: too many for the list."""
    row = np.zeros(VOCAB_SIZE, np.float32)
    upper = rng.permutation(VOCAB_SIZE)[: VOCAB_SIZE // 5]
    row[upper] = rng.uniform(0.49, 0.59, len(upper))
    return row


def a_sample_above_the_row(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a row whose sampled values lie well above the rest, so that the bracket ends above the threshold."""
    row = rng.standard_normal(VOCAB_SIZE, np.float32)
    row[SAMPLED.ravel()] += np.float32(3)
    return row


def a_sample_below_the_row(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a row whose sampled values have no weight, so that a few large tokens seem to have all mass."""
    row = rng.uniform(2, 3, VOCAB_SIZE).astype(np.float32)
    row[5::100] = rng.uniform(5, 6, VOCAB_SIZE // 100)
    row[SAMPLED.ravel()] = -20
    return row


def equals_that_are_few(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a row whose sampled values are ties, while few other values are: ties do not reach the threshold."""
    row = rng.uniform(-2.5, -0.5, VOCAB_SIZE).astype(np.float32)
    row[SAMPLED.ravel()] = 0
    row[::100] = 1
    return row


def equals_below_the_threshold(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a row whose sampled values are ties, while most other values are above and reach the threshold."""
    row = rng.uniform(0.2, 0.9, VOCAB_SIZE).astype(np.float32)
    row[SAMPLED.ravel()] = 0
    row[::100] = 1
    return row


def ever_a_bad_pivot(_: np.random.Generator) -> NDArray[np.float32]:
    """Return a row whose largest remaining values are always where quickselect looks for a pivot."""
    values = np.full(1000, np.nan)
    left, num_given = list(range(len(values))), 0
    for _step in range(30):
        places = [left[(2 * c + 1) * len(left) // 30] for c in range(15)]  # pivot_of in csrc/sampling/weighted_select.c
        for place in places:
            if np.isnan(values[place]):
                values[place] = -num_given / 4096
                num_given += 1
        pivot = sorted(values[places])[7]
        left = [place for place in left if not values[place] >= pivot]
    values[np.isnan(values)] = np.linspace(-1.1, -1.0, np.isnan(values).sum())
    return values.astype(np.float32)


MISLED = [
    (too_many_in_the_bracket, 0.3),
    (a_sample_above_the_row, 0.5),
    (a_sample_below_the_row, 0.9),
    (equals_that_are_few, 0.5),
    (equals_below_the_threshold, 0.5),
    (ever_a_bad_pivot, 0.95),
]


@pytest.mark.parametrize(("make", "top_p"), MISLED)
def test_a_misled_search_finds_the_same_prefix(make, top_p):
    """If the suggested bracket is useless, fast search equals plain search and the reference."""
    row = make(np.random.Generator(np.random.Philox(key=3)))
    states = [SamplingState(SamplingParams(top_p=top_p, seed=1))]
    fast, plain = Sampler(len(row)), Sampler(len(row))
    plain._kernel = Kernel(len(row), len(row), plain_search=True)
    assert fast.probabilities(row, states).tobytes() == plain.probabilities(row, states).tobytes()
    assert_matches_reference(fast, row[np.newaxis], states)


def forced_logprobs(logits: NDArray[np.float32], mode: LogprobsMode, temperature: float) -> list[float]:
    """Return the log-probability of each token of a row when it is forced, with top_p=0.9."""
    num_tokens = len(logits)
    rows = [KernelRow() for _ in range(num_tokens)]
    for token_id, row in enumerate(rows):
        row.set(temperature=temperature, top_p=0.9)
        row.set_report((mode,), 0)
        row.force_token(token_id)
    matrix = np.tile(logits, (num_tokens, 1))  # [tokens, tokens]
    output = Kernel(num_tokens, num_tokens).sample(matrix, rows)
    assert output.token_ids.tolist() == list(range(num_tokens))
    logprobs: list[float] = output.logprobs.tolist()
    return logprobs


def test_final_logprobs_are_the_distribution():
    """Final log-probabilities of forced tokens are the logarithms of `probabilities`, -inf included."""
    logits = np.array([1.0, -2.0, 0.5, 3.0, 2.5, -9.0], np.float32)
    probabilities = Sampler(6).probabilities(logits, [SamplingState(SamplingParams(temperature=0.8, top_p=0.9))])[0]
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(forced_logprobs(logits, "final", 0.8), np.log(probabilities), atol=1e-6)


@pytest.mark.parametrize("mode", ["scaled", "final"])
def test_greedy_logprobs_are_one_hot(mode):
    """At temperature 0 the first token of the total order has log-probability 0, all others -inf."""
    logits = np.array([1.0, 3.0, 0.5, 3.0], np.float32)
    assert forced_logprobs(logits, mode, 0.0) == [-np.inf, 0.0, -np.inf, -np.inf]
    state = SamplingState(SamplingParams(temperature=0.0, logprobs=3, logprobs_mode=mode))
    output = Sampler(4).sample(logits, [state])
    assert output.top_token_ids[0].tolist() == [1, 3, 0]
    assert output.top_logprobs[0].tolist() == [0.0, -np.inf, -np.inf]


def test_rank_of_a_banned_token_in_a_later_block():
    """Banned tokens have the last ranks, by id, also in a block that is counted as a whole."""
    logits = np.zeros(1000, np.float32)
    logits[::3] = -np.inf  # 334 of them; 200 before id 600
    row = KernelRow()
    row.set(temperature=1.0)
    row.set_report(("raw",), 0)
    row.force_token(600)
    assert Kernel(1000, 1000).sample(logits[np.newaxis], [row]).ranks.tolist() == [666 + 200 + 1]


def test_smoothing_of_ties_at_the_float_minimum():
    """Smoothing after top_k works on a row of ties with the minimum of float32."""
    logits = np.full((1, 5), np.finfo(np.float32).min)
    state = SamplingState(SamplingParams(top_k=2, smoothing_factor=0.5, seed=3))
    assert_matches_reference(Sampler(5, profile="llama_cpp"), logits, [state])


def test_a_repetition_beyond_the_float_range():
    """DRY's penalty stops at the maximum of float32, and the penalised logit at the minimum."""
    params = SamplingParams(dry_multiplier=1e38, dry_base=1e38, dry_allowed_length=1, seed=1)
    state = SamplingState(params, prompt_token_ids=[1, 2, 3, 1, 2])
    logits = np.array([[0.0, 0.0, 0.0, 9.0]], np.float32)
    assert_matches_reference(Sampler(4), logits, [state])
    assert Sampler(4).probabilities(logits, [state])[0, 3] == 0


def test_an_entropy_share_that_underflows():
    """If the power of the entropy share underflows to 0, the temperature is the minimum."""
    logits = np.array([[9.0, 0.0, 0.0, 0.0]], np.float32)
    params = SamplingParams(temperature=1.0, dynatemp_range=0.5, dynatemp_exponent=1000.0, seed=3)
    assert_matches_reference(Sampler(4), logits, [SamplingState(params)])


@pytest.mark.parametrize("num_tokens", range(2, 40))
def test_an_entropy_share_above_one(num_tokens):
    """On equal logits an entropy share that rounding makes more than 1 does not distort the distribution."""
    params = SamplingParams(temperature=1.0, dynatemp_range=0.5, dynatemp_exponent=3e38, top_p=0.999)
    probabilities = Sampler(num_tokens).probabilities(np.zeros(num_tokens, np.float32), [SamplingState(params)])
    np.testing.assert_allclose(probabilities, 1 / num_tokens, rtol=1e-9)


@pytest.mark.parametrize("bits", [0x7C01, 0x7FFF, 0xFC01, 0xFFFF])
@pytest.mark.parametrize("place", [0, 5, 300, 511, 520])
def test_every_nan_of_float16_is_found(place, bits):
    """NaNs with either sign and any mantissa are found, in whole blocks and in the last block."""
    halves = np.zeros(530, np.uint16)
    halves[place] = bits
    with pytest.raises(NonFiniteLogitsError, match="finite_check"):
        Sampler(530).sample(halves.view(np.float16), [SamplingState(SamplingParams())])


def test_probabilities_of_failing_rows():
    """The method `probabilities` raises for a row that cannot be drawn from, with the stage."""
    state = SamplingState(SamplingParams(allowed_token_ids=[0]))
    with pytest.raises(EmptySupportError, match="hard_masks"):
        Sampler(2).probabilities(np.array([-np.inf, 0.0], np.float32), [state])
    with pytest.raises(NonFiniteLogitsError, match="finite_check"):
        Sampler(2).probabilities(np.array([np.nan, 0.0], np.float32), [state])


@pytest.mark.parametrize("generated", [[0, 1], [1, 0], [1, 2], [2, 1], [2, 0, 1]])
def test_the_first_failure_is_reported(generated):
    """If edits make several tokens infinite, the earliest stage and its lowest id are reported."""
    state = SamplingState(SamplingParams(repetition_penalty=2.0, frequency_penalty=-3e38))
    for token_id in generated:
        state.append(token_id)
    logits = np.array([3e38, -3e38, -3e38], np.float32)  # 0 fails at the frequency penalty, 1 and 2 before it
    (error,) = Sampler(3).sample(logits, [state], commit=False, on_error="status").errors
    assert isinstance(error, NonFiniteLogitsError)
    assert (error.token_id, error.stage) == (1, "repetition_penalty")


def test_forcing_none_restores_the_widest_set(isa):
    """A call of force_isa(None) restores the widest available set."""
    force_isa(None)
    assert active_isa() == available_isas()[0]
    force_isa(isa)


@pytest.mark.parametrize("num_kept", [255, 257, 32 * 256 - 1, 32 * 256, 32 * 256 + 1, VOCAB_SIZE])
@pytest.mark.parametrize("first", [0, 3 * 256])
def test_the_total_of_equal_logits(num_kept: int, first: int) -> None:
    """The weights of a run of blocks, all of them the largest there are, add up exactly, for any length of the run."""
    num_kept = min(num_kept, VOCAB_SIZE - first)
    row = np.full((1, VOCAB_SIZE), -np.inf, np.float32)
    row[0, first : first + num_kept] = 2.5
    output = Sampler(VOCAB_SIZE).score(row, [first])
    assert output.logprobs[0] == np.float32(-np.log(np.float64(num_kept)))
