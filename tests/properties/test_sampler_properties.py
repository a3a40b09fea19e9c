"""Properties of all rows and parameters, stated without the reference."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from decoding.errors import LogitsError
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.testing import logits_rows, sampling_params, sampling_problems, token_ids, vocab_sizes


def sample_one(logits, *, prompt=(), output=(), choice=0, **params):
    """Return the token that is drawn from one row."""
    state = SamplingState(SamplingParams(**params), prompt, choice=choice)
    for token_id in output:
        state.append(token_id)
    return int(Sampler(len(logits)).sample(logits, [state]).token_ids[0])


def probabilities(logits, **params):
    """Return the distribution of one row: float64 [vocab]."""
    return Sampler(len(logits)).probabilities(logits, [SamplingState(SamplingParams(seed=0, **params))])[0]


@st.composite
def rows(draw):
    """Draw a row of any size."""
    return draw(logits_rows(draw(vocab_sizes())))


@given(rows(), st.sampled_from([0.0, 1e-30, 9.5e-7]), st.integers(0, 9))
def test_greedy_is_the_first_maximum(logits, temperature, seed):
    """Below T = 2**-20 the token is the lowest id of the largest logit, for any seed and truncation."""
    assert sample_one(logits, temperature=temperature, seed=seed, top_p=0.5, min_p=0.1) == logits.argmax()


@given(rows(), st.integers(1, 300), st.floats(0.25, 4.0))
def test_top_k_keeps_exactly_k(logits, k, temperature):
    """Top-k keeps exactly k tokens, with ties or without, unless fewer are above the cut and not banned."""
    exponents = (logits.astype(np.float64) - logits.max()) / np.float32(temperature)
    assume(not np.any(abs(exponents + 40 * np.log(2)) < 1e-3))
    alive = int((exponents > -40 * np.log(2)).sum())
    assert np.count_nonzero(probabilities(logits, top_k=k, temperature=temperature)) == min(k, alive)


def test_the_threshold_of_greedy_decoding():
    """At T = 2**-20 three tied tokens share the mass; one float32 below it, the first of them has all of it."""
    logits = np.array([0, 5, 5, 5, 1], np.float32)
    below = float(np.nextafter(np.float32(2.0**-20), np.float32(0)))
    assert probabilities(logits, temperature=2.0**-20).tolist() == [0, 1 / 3, 1 / 3, 1 / 3, 0]
    assert probabilities(logits, temperature=below).tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("vocab_size", [2, 3, 16, 17, 255, 256, 257, 1000])
def test_top_k_near_the_vocabulary_size(vocab_size):
    """With top_k = vocab - 1 the highest id of a flat row is dropped; with vocab and more, none is."""
    flat = np.zeros(vocab_size, np.float32)
    for top_k in (1, vocab_size - 1, vocab_size, vocab_size + 1):
        kept = np.flatnonzero(probabilities(flat, top_k=top_k))
        np.testing.assert_array_equal(kept, np.arange(min(top_k, vocab_size)))


@pytest.mark.parametrize("zeros", [[0.0], [-0.0], [0.0, -0.0], [-0.0, 0.0], [-0.0] * 300 + [0.0] * 300])
@pytest.mark.parametrize("shift", [{}, {"logit_bias": {0: -0.0}}, {"temperature": 0.5}])
def test_both_zeros_are_one_value(zeros, shift):
    """Mixed +0 and -0 are ties: the lowest ids are kept and ranked first."""
    logits = np.resize(np.array(zeros, np.float32), 700)
    for params in ({"top_k": 299}, {"top_p": 298.5 / 700}):
        kept = np.flatnonzero(probabilities(logits, **params, **shift))
        np.testing.assert_array_equal(kept, np.arange(299))
    state = SamplingState(SamplingParams(seed=1, logprobs=5, **shift))
    output = Sampler(700).sample(logits, [state])
    assert output.top_token_ids[0].tolist() == [0, 1, 2, 3, 4]
    assert output.ranks[0] == output.token_ids[0] + 1


@pytest.mark.parametrize("vocab_size", [2, 16, 64, 256, 1024])
def test_top_p_boundaries_are_exact(vocab_size):
    """With 2**m equal tokens, top_p = j / 2**m keeps exactly the j lowest ids: the mass is not rounded."""
    logits = np.full(vocab_size, -3.25, np.float32)
    for j in {1, vocab_size // 2, vocab_size - 1}:
        p = probabilities(logits, top_p=j / vocab_size)
        np.testing.assert_array_equal(np.flatnonzero(p), np.arange(j))
        np.testing.assert_array_equal(p[:j], np.full(j, 1 / j))


@given(rows(), st.floats(0.0, 1.0))
def test_truncation_keeps_at_least_one_and_only_the_best(logits, x):
    """Truncation keeps at least one token and drops none that is above a kept one."""
    for params in ({"top_p": x}, {"min_p": x}, {"top_p": x, "min_p": 1 - x, "top_k": 3}):
        kept = probabilities(logits, **params) > 0
        assert kept.any()
        assert kept.all() or logits[kept].min() >= logits[~kept].max()


@given(sampling_problems())
def test_probabilities_are_a_distribution_that_sample_obeys(problem):
    """Rows sum to 1, and the drawn token has a positive probability."""
    output = problem.sampler.sample(problem.logits, problem.states, commit=False, on_error="status")
    for row, state in enumerate(problem.states):
        if output.errors[row] is None:
            (p,) = problem.sampler.probabilities(problem.logits[row], [state])
            assert abs(p.sum() - 1) < 1e-9
            assert p[output.token_ids[row]] > 0


@given(rows(), st.data())
def test_a_banned_token_is_never_drawn(logits, data):
    """No bias, penalty or temperature gives a banned token a positive probability."""
    ids = st.integers(0, len(logits) - 1)
    banned = data.draw(st.sets(ids, max_size=len(logits) - 1))
    alive = (logits > -np.inf) & ~np.isin(np.arange(len(logits)), list(banned))
    assume(alive.any())
    bias = dict.fromkeys([*banned, *np.flatnonzero(~alive)[:5].tolist()], 100.0)
    p = probabilities(logits, banned_token_ids=sorted(banned), logit_bias=bias, temperature=1e30)
    assert not p[~alive].any()


@given(rows(), st.integers(-20, 20), st.integers(-(2**63), 2**63 - 1))
def test_scaling_logits_and_temperature_together_changes_nothing(logits, power, seed):
    """Logits and temperature times a power of two give the same token and log-probability bits."""
    factor = np.float32(2.0**power)
    with np.errstate(over="ignore", under="ignore"):
        scaled = logits * factor
        exact = np.array_equal(scaled / factor, logits)
    assume(exact)
    outputs = []
    for row, temperature in ((logits, 4.0), (scaled, 4.0 * 2.0**power)):
        params = SamplingParams(temperature=temperature, seed=seed, top_p=0.9, logprobs=1, logprobs_mode="final")
        outputs.append(Sampler(len(row)).sample(row, [SamplingState(params)]))
    assert outputs[0].token_ids.tobytes() == outputs[1].token_ids.tobytes()
    assert outputs[0].logprobs.tobytes() == outputs[1].logprobs.tobytes()


@given(st.data())
def test_a_truncated_state_equals_a_new_one(data):
    """After `truncate` a state gives the bits of a new state with the same tokens, penalties included."""
    vocab_size = data.draw(vocab_sizes())
    logits = data.draw(logits_rows(vocab_size))
    params = data.draw(sampling_params(vocab_size))
    prompt, output = data.draw(token_ids(vocab_size)), data.draw(token_ids(vocab_size))
    keep = data.draw(st.integers(0, len(output)))
    used, fresh = (SamplingState(params, prompt, host_parameters=True) for _ in range(2))
    for state, ids in ((used, output), (fresh, output[:keep])):
        for token_id in ids:
            state.append(token_id, token_id / 4 if state.needs_surprise else None)
    used.truncate(keep)
    assert used.output_token_ids == fresh.output_token_ids == output[:keep]
    results = [Sampler(vocab_size).sample(logits, [state], on_error="status") for state in (used, fresh)]
    assert repr(results[0].errors) == repr(results[1].errors)
    assert results[0].words.tobytes() == results[1].words.tobytes()
    for name in ("top_token_ids", "all_top_logprobs"):
        assert getattr(results[0], name).tobytes() == getattr(results[1], name).tobytes()


def test_penalties_count_thousands_of_tokens():
    """Penalties count thousands of distinct tokens, also after some are truncated."""
    vocab_size = 5000
    state = SamplingState(SamplingParams(seed=0, presence_penalty=9, temperature=0), prompt_token_ids=[0])
    sampler, flat = Sampler(vocab_size), np.zeros(vocab_size, np.float32)
    for expected in range(300):  # greedy on a flat row takes the first token without a penalty
        assert sampler.sample(flat, [state]).token_ids.tolist() == [expected]
    state.truncate(100)
    assert sampler.sample(flat, [state]).token_ids.tolist() == [100]
    for token_id in range(101, 4000):
        state.append(token_id)
    assert sampler.sample(flat, [state]).token_ids.tolist() == [4000]


@given(sampling_problems(nonfinite=True))
def test_a_failing_row_stops_the_call_and_records_nothing(problem):
    """With on_error="raise" the first failed row raises and no state grows; otherwise each grows by one token."""
    before = [len(state.output_token_ids) for state in problem.states]
    errors = problem.sampler.sample(problem.logits, problem.states, commit=False, on_error="status").errors
    first = next((error for error in errors if error is not None), None)
    if first is None:
        token_ids = problem.sampler.sample(problem.logits, problem.states).token_ids.tolist()
        assert [state.output_token_ids[-1] for state in problem.states] == token_ids
        before = [length + 1 for length in before]
    else:
        with pytest.raises(type(first)) as caught:
            problem.sampler.sample(problem.logits, problem.states)
        assert repr(caught.value) == repr(first)
    assert [len(state.output_token_ids) for state in problem.states] == before


def test_a_failed_row_does_not_fail_others():
    """With on_error="status" a failed row has its error and token -1 and records nothing; other rows are drawn."""
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = np.nan
    states = [SamplingState(SamplingParams(seed=0)) for _ in range(3)]
    output = Sampler(4).sample(logits, states, on_error="status")
    assert [type(error).__name__ for error in output.errors] == ["NoneType", "NonFiniteLogitsError", "NoneType"]
    assert output.token_ids[1] == -1
    assert [len(state.output_token_ids) for state in states] == [1, 0, 1]


def test_one_row_without_a_rows_axis():
    """Logits of shape [vocab] are one row, and the output has a rows axis."""
    logits = np.arange(5, dtype=np.float32)
    state = SamplingState(SamplingParams(temperature=0))
    assert Sampler(5).sample(logits, [state]).token_ids.tolist() == [4]


def test_a_missing_seed_is_chosen_and_reported():
    """Without a seed each state chooses its own, reports it, and that seed replays the draw."""
    one, other = SamplingState(SamplingParams()), SamplingState(SamplingParams())
    assert one.seed != other.seed
    assert -(2**63) <= one.seed < 2**63
    logits = np.zeros(100_000, np.float32)
    assert Sampler(100_000).sample(logits, [one]).token_ids[0] == sample_one(logits, seed=one.seed)


def test_a_signed_bitmask_is_the_same_mask():
    """A bitmask of int32 words, as grammar libraries return, is the mask of its uint32 bits."""
    words = np.array([0x80000001, 0xFFFFFFFF, 0], np.uint32)
    for mask in (words, words.view(np.int32)):
        state = SamplingState(SamplingParams())
        state.bitmask = mask
        p = Sampler(80).probabilities(np.zeros(80, np.float32), [state])[0]
        assert np.flatnonzero(p).tolist() == [0, 31, *range(32, 64)]


@pytest.mark.parametrize(
    "logits",
    [
        [0.0] * 4,
        np.zeros(3, np.float32),
        np.zeros((1, 5), np.float32),
        np.zeros((1, 1, 4), np.float32),
        np.zeros(4, np.float64),
        np.zeros(4, np.int32),
        np.zeros(4, ">f4"),
        np.zeros((4, 1), np.float32).T.astype("O"),
        np.float32(0),
    ],
    ids=["list", "short", "long", "3-d", "float64", "int32", "big-endian", "object", "scalar"],
)
def test_logits_of_a_wrong_kind_are_refused(logits):
    """Logits of a wrong shape, dtype, byte order or layout raise LogitsError before C reads an address."""
    with pytest.raises(LogitsError, match=r"logits.*must"):
        Sampler(4).sample(logits, [SamplingState(SamplingParams())])
