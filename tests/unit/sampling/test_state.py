"""SamplingState: what of it reaches the kernel, and that all of it can be saved and taken back."""

import copy
import json
import math
import pickle

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState
from decoding.domains import Integer, required
from decoding.errors import ParameterError
from decoding.params import PARAMETERS
from decoding.sampling.kernel.row import NUMBERS as KERNEL_NUMBERS
from decoding.sampling.stages import PIPELINE, STAGE_NAMES
from decoding.validation import to_float32


def other_than_default(name):
    """Return a value of a number parameter that is neither its default nor any other parameter's."""
    domain, place = required(PARAMETERS[name].domain), list(PARAMETERS).index(name)
    return 3 + place if isinstance(domain, Integer) else max(domain.low, 0.0) + 0.3 + place / 100


NUMBERS = {name: other_than_default(name) for name in KERNEL_NUMBERS}
SEQUENCES = {"bad_words": [[1], [2, 3]], "dry_sequence_breakers": [[4, 5, 6], [7]]}
MIROSTAT = SamplingParams(mirostat_tau=3.0, mirostat_eta=0.2, seed=1)


def fields(state):
    """The kernel's row of a state."""
    return state.kernel_row.struct


def int32s(pointer, length):
    """So many elements behind a pointer."""
    return [pointer[index] for index in range(length)]


def same_draws(one, other, num_tokens=4):
    """Both states draw the same tokens from now on, and log the same."""
    logits = np.random.default_rng(3).standard_normal((num_tokens, 40)).astype(np.float32)
    sampler = Sampler(40)
    return all(
        sampler.sample(row, [one]).words.tobytes() == sampler.sample(row, [other]).words.tobytes() for row in logits
    )


def test_every_parameter_of_the_stages_is_looked_at():
    """Every parameter of the stages from the first penalty to mirostat is a number for C, or has a test of its own."""
    asked = {name for stage in PIPELINE if stage.has_place for name in stage.parameters}
    elsewhere = {"repetition_penalty_scope", "logit_bias", "min_tokens", "allowed_token_ids", "banned_token_ids"}
    followed = {"mirostat_tau", "mirostat_eta", "mirostat_version", "adaptive_p_target", "adaptive_p_decay", "p_less"}
    assert asked == {*NUMBERS, *SEQUENCES, *elsewhere, *followed}
    assert set(STAGE_NAMES) == {stage.number for stage in PIPELINE}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_reach_the_kernel(name):
    """Each under its own name, rounded to float32; off is what C calls off, and nothing else changes with it."""
    given, neutral = SamplingState(SamplingParams(seed=0, **{name: NUMBERS[name]})), SamplingState(SamplingParams())
    assert getattr(fields(given), name) == to_float32(NUMBERS[name])
    assert getattr(fields(neutral), name) != to_float32(NUMBERS[name])
    for other in NUMBERS:
        if other != name:
            assert getattr(fields(given), other) == getattr(fields(neutral), other)


def test_off_is_neutral():
    """None becomes C's own word for it."""
    row = fields(SamplingState(SamplingParams(dry_range=None)))
    assert (row.top_k, row.dry_range, row.no_repeat_ngram_size) == (2**31 - 1, 2**31 - 1, 0)
    assert (row.top_n_sigma, row.typical_p, row.mirostat_mu) == (math.inf, 1.0, 0.0)


def test_sequences_reach_the_kernel():
    """Token ids one after another, and the length of each sequence."""
    state = SamplingState(SamplingParams(**SEQUENCES))  # keeps the arrays alive
    row = fields(state)
    for struct, sequences in ((row.bad_words, [[1], [2, 3]]), (row.dry_breakers, [[4, 5, 6], [7]])):
        assert int32s(struct.lengths, struct.num_sequences) == [len(sequence) for sequence in sequences]
        assert int32s(struct.token_ids, sum(map(len, sequences))) == [i for sequence in sequences for i in sequence]


@pytest.mark.parametrize("name", SEQUENCES)
def test_text_has_no_place_here(name):
    """A sampler has no tokenizer: breakers and bad words as strings are refused, and the message says what to give."""
    with pytest.raises(ParameterError, match=rf"{name}='\.'.*token ids") as caught:
        SamplingState(SamplingParams(**{name: [[1], "."]}))
    assert [problem.parameter for problem in caught.value.problems] == [name]


@pytest.mark.parametrize("name", SEQUENCES)
def test_ids_of_sequences_are_of_the_vocabulary(name):
    """An id that the vocabulary does not have is named, with its parameter."""
    state = SamplingState(SamplingParams(**{name: [[1, 4]]}))
    with pytest.raises(ParameterError, match=f"{name}=4"):
        Sampler(4).sample(np.zeros(4, np.float32), [state])


@pytest.mark.parametrize("params", [{"dry_multiplier": 1.0}, {"no_repeat_ngram_size": 2}, {"bad_words": [[1]]}])
def test_the_context_grows_in_place_and_shrinks(params):
    """Prompt and output in order, whatever was appended or taken back, also where the array has to move."""
    state = SamplingState(SamplingParams(**params), [5, 6])
    for count in (0, 1, 300, 300, 5):
        state.truncate(min(count, state.position))
        for token_id in range(state.position, count):
            state.append(token_id)
        row = fields(state)
        assert int32s(row.context_token_ids, row.num_context) == [5, 6, *range(count)]
        assert row.position == count


def test_nothing_is_kept_that_nobody_asks_for():
    """Without penalties, DRY, n-grams and bad words the kernel gets no history, so the call needs no room for it."""
    state = SamplingState(SamplingParams(), [1, 2, 3])
    state.append(4)
    assert (fields(state).num_history, fields(state).num_context) == (0, 0)


def test_mirostat_follows_the_surprise():
    """The bound begins at 2 tau and moves by eta times the excess, in float64, from float32 parameters."""
    state = SamplingState(MIROSTAT)
    eta, expected = to_float32(0.2), 6.0
    assert state.mirostat_mu == fields(state).mirostat_mu == expected
    for surprise in (5.0, 0.0, 2.25):
        state.append(1, surprise)
        expected -= eta * (surprise - 3.0)
        assert state.mirostat_mu == fields(state).mirostat_mu == expected


def test_a_negative_bound_recovers():
    """Below 0 the kernel is given 0, which keeps one token just as well, and mu goes on from where it is."""
    state = SamplingState(MIROSTAT)
    state.append(1, 100.0)
    assert state.mirostat_mu == 6.0 - to_float32(0.2) * 97.0 < 0.0
    assert fields(state).mirostat_mu == 0.0
    state.append(1, 0.0)
    assert state.mirostat_mu == pytest.approx(6.0 - 0.2 * 97.0 + 0.6)


def test_sample_records_the_surprise():
    """`sample` does what `append` with the reported surprise does."""
    logits = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    sampled, appended, sampler = SamplingState(MIROSTAT), SamplingState(MIROSTAT), Sampler(40)
    for _ in range(5):
        output = sampler.sample(logits, [appended], commit=False)
        appended.append(int(output.token_ids[0]), output.surprises[0])
        assert sampler.sample(logits, [sampled]).words.tobytes() == output.words.tobytes()
        assert 0.0 <= output.surprises[0] < np.inf
        assert sampled.mirostat_mu == appended.mirostat_mu != 6.0


def test_the_bound_can_be_taken_back():
    """The bound belongs to a position: truncate restores it."""
    state, bounds = SamplingState(MIROSTAT), []
    for surprise in range(6):
        bounds.append(state.mirostat_mu)
        state.append(surprise, float(surprise))
    for position in (5, 3, 0):
        state.truncate(position)
        assert state.mirostat_mu == fields(state).mirostat_mu == bounds[position]


def test_the_bound_can_be_set():
    """To go on from elsewhere; None is the bound of the start."""
    state = SamplingState(MIROSTAT)
    state.append(1, 4.0)
    state.mirostat_mu = 2.5
    assert state.mirostat_mu == fields(state).mirostat_mu == 2.5
    state.mirostat_mu = None
    assert state.mirostat_mu == 6.0
    without = SamplingState(SamplingParams())
    without.mirostat_mu = None
    assert without.mirostat_mu is None


@pytest.mark.parametrize("mu", [math.nan, math.inf, "1", True])
def test_a_bound_is_a_number(mu):
    """A finite one, and only with mirostat."""
    with pytest.raises(ParameterError, match="mirostat_mu"):
        SamplingState(MIROSTAT).mirostat_mu = mu
    with pytest.raises(ParameterError, match="mirostat_mu"):
        SamplingState(SamplingParams()).mirostat_mu = 1.0


ADAPTIVE = SamplingParams(adaptive_p_target=0.4, adaptive_p_decay=0.75, seed=1)


def test_adaptive_p_follows_the_drawn_probabilities():
    """The center is 2 * target - average; the average begins at the target, and a token moves it by a quarter."""
    state = SamplingState(ADAPTIVE)
    target = average = to_float32(0.4)
    assert state.needs_surprise
    for probability in (0.5, 0.125, 1.0, 0.0625):
        assert state.adaptive_p_center == pytest.approx(min(1.0, max(0.0, 2 * target - average)), abs=1e-12)
        assert fields(state).adaptive_p_center == state.adaptive_p_center
        state.append(1, -math.log2(probability))
        average = 0.75 * average + 0.25 * probability
    twin = pickle.loads(pickle.dumps(state))
    assert twin.adaptive_p_center == fields(twin).adaptive_p_center == state.adaptive_p_center
    state.truncate(0)
    assert state.adaptive_p_center == target
    assert SamplingState(SamplingParams()).adaptive_p_center is None


def test_adaptive_ps_center_is_a_probability():
    """After certain tokens it would be below 0, after impossible ones above 1."""
    state = SamplingState(SamplingParams(adaptive_p_target=0.2, adaptive_p_decay=0.0))
    state.append(1, 0.0)
    assert state.adaptive_p_center == fields(state).adaptive_p_center == 0.0
    state = SamplingState(SamplingParams(adaptive_p_target=0.9, adaptive_p_decay=0.0))
    state.append(1, 5000.0)
    assert state.adaptive_p_center == 1.0
    state = SamplingState(SamplingParams(adaptive_p_target=0.9, adaptive_p_decay=1.0))
    state.append(1, 5.0)
    assert state.adaptive_p_center == to_float32(0.9)


@pytest.mark.parametrize("surprise", [0.0, 0.1, 1.0, 2.5, 20.75, 149.3, 999.0])
def test_the_power_of_half_is_exact_enough(surprise):
    """2**-surprise to one part in 10**15, without the C library's pow."""
    state = SamplingState(SamplingParams(adaptive_p_target=0.5, adaptive_p_decay=0.0))
    state.append(1, surprise)
    assert state._averages[-1].weighted_sum == pytest.approx(2.0**-surprise, rel=1e-15)


def test_flags_of_the_kernel():
    """Bits for what is no number: p-less, mirostat's first version, adaptive-p."""
    asked = (
        {"p_less": "plain"},
        {"p_less": "norm"},
        {"mirostat_tau": 1, "mirostat_version": 1},
        {"adaptive_p_target": 0},
    )
    zeros = fields(SamplingState(SamplingParams())).flags  # every state may have zeros
    found = [fields(SamplingState(SamplingParams(**params))).flags for params in asked]
    assert found == [zeros | bits for bits in (16, 32, 4 + 8, 64)]


@pytest.mark.parametrize("surprise", [None, math.nan, math.inf, -1.0, "1", True, np.float32(-0.5)])
def test_a_surprise_is_needed_with_mirostat(surprise):
    """A finite number >= 0; a refused one leaves the state as it was."""
    state = SamplingState(MIROSTAT)
    with pytest.raises(ParameterError, match="surprise"):
        state.append(1, surprise)
    assert (state.position, state.mirostat_mu) == (0, 6.0)


def test_a_surprise_is_refused_without_mirostat():
    """It would be ignored."""
    state = SamplingState(SamplingParams())
    with pytest.raises(ParameterError, match="surprise"):
        state.append(1, 0.5)
    assert state.position == 0


EVERYTHING = SamplingParams(
    presence_penalty=0.3,
    repetition_penalty=1.1,
    repetition_penalty_scope=4,
    dry_multiplier=0.8,
    dry_sequence_breakers=[[3]],
    no_repeat_ngram_size=3,
    bad_words=[[5], [1, 2]],
    mirostat_tau=2.0,
    min_tokens=9,
    stop_token_ids=[8],
    logprobs=2,
    logprobs_mode=["final", "raw"],
)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_everything_is_saved(duplicate):
    """A copy has tokens, histories, bound, mask and seed, goes on as the original does, and neither sees the other."""
    state = SamplingState(EVERYTHING, [1, 2, 3, 1], stream=3, choice=4, eos_token_ids=[9])
    state.bitmask = np.array([0xFFFF_FFF7, 0xFF], np.uint32)
    for token_id in (1, 2, 3, 1, 2):
        state.append(token_id, 1.5)
    twin = duplicate(state)
    assert twin.mirostat_mu == state.mirostat_mu
    assert same_draws(twin, state)
    twin.truncate(2)
    state.truncate(2)
    assert twin.mirostat_mu == state.mirostat_mu
    assert same_draws(twin, state)
    assert state.output_token_ids == twin.output_token_ids


def test_other_parameters_for_the_same_tokens():
    """`with_params` keeps tokens and place in the random stream."""
    state = SamplingState(SamplingParams(presence_penalty=1.0), [1, 2], stream=5)
    state.append(7)
    other = state.with_params(SamplingParams(temperature=0.0))
    assert (other.seed, other.stream, other.output_token_ids) == (state.seed, 5, [7])
    assert (other.params.temperature, other.position, fields(other).position) == (0.0, 1, 1)


@pytest.mark.parametrize("params", [EVERYTHING, SamplingParams(logit_bias={3: -1.5, 2: 0.1}, seed=-(2**63))])
def test_json_and_back(params):
    """What `to_dict` gives is JSON, and restores a state that draws the same."""
    state = SamplingState(params, [1, 2, 3, 1], stream=2**64 - 1, choice=4, eos_token_ids=[9])
    state.bitmask = np.array([0xFFFF_FFF7, 0xFF], np.uint32)
    for token_id in (1, 2, 3):
        state.append(token_id, None if params.mirostat_tau is None else 1.7)
    twin = SamplingState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert twin.params == state.params
    assert twin.to_dict() == state.to_dict()
    assert same_draws(twin, state)


def test_a_state_of_other_random_streams_is_refused():
    """A state from a library that draws other tokens, or one with a field too few, is not gone on with."""
    values = SamplingState(SamplingParams(seed=1)).to_dict()
    with pytest.raises(ParameterError, match="stream_version=0: must be 1"):
        SamplingState.from_dict(values | {"stream_version": 0})
    with pytest.raises(ParameterError, match="with the keys adaptive_p_averages, bitmask"):
        SamplingState.from_dict({name: value for name, value in values.items() if name != "choice"})


def test_fork():
    """A fork draws what a state of that choice draws after these tokens, and shares nothing with the first."""
    state = SamplingState(EVERYTHING, [1, 2], choice=1)
    other = SamplingState(EVERYTHING, [1, 2], choice=7).with_params(EVERYTHING)
    for token_id in (4, 5):
        state.append(token_id, 1.0)
    fork = state.fork(choice=7)
    assert (fork.seed, fork.choice, fork.output_token_ids) == (state.seed, 7, [4, 5])
    fork.append(6, 1.0)
    assert state.output_token_ids == [4, 5]
    assert other.choice == fork.choice


@pytest.mark.parametrize("name", ["temperature", "top_p", "choice", "stream", "seed", "params", "prompt_token_ids"])
def test_attributes_cannot_be_set(name):
    """An attribute that would have no effect on the next draw cannot be assigned."""
    with pytest.raises(AttributeError):
        setattr(SamplingState(SamplingParams()), name, 1)


HOST = {"max_tokens": 3, "stop": "x", "n": 2, "echo": True, "suffix": "y", "stop_token_ids": [1], "ignore_eos": True}


@pytest.mark.parametrize("name", HOST)
def test_parameters_of_the_host_are_refused(name):
    """A parameter that a sampler would ignore is an error, unless the host says that it acts on it."""
    params = SamplingParams(**{name: HOST[name]})
    with pytest.raises(ParameterError, match=f"{name}=.*host_parameters=True"):
        SamplingState(params)
    state = SamplingState(params, host_parameters=True)
    assert copy.copy(state).params == params


def test_all_ignored_parameters_are_named_at_once():
    """The error lists every one of them; with min_tokens the ids that end a sequence have an effect."""
    with pytest.raises(ParameterError) as caught:
        SamplingState(SamplingParams(**HOST))
    assert {problem.parameter for problem in caught.value.problems} == set(HOST)
    assert SamplingState(SamplingParams(max_tokens=None, min_tokens=2, stop_token_ids=[1], ignore_eos=True))


@pytest.mark.parametrize("scope", ["prompt+output", "output", 1, 3, 100])
def test_counts_follow_a_random_walk(scope):
    """The counts are those of the tokens, however often the sequence grew and was cut."""
    rng = np.random.default_rng(1)
    prompt = [7, 7, 2**31 - 1, 0]
    state = SamplingState(SamplingParams(presence_penalty=1.0, repetition_penalty_scope=scope), prompt)
    for _ in range(40):
        state.truncate(int(rng.integers(state.position + 1)))
        for token_id in rng.integers(0, 40, int(rng.integers(30))).tolist():
            state.append(token_id * 977)
        tokens = [*prompt, *state.output_token_ids]
        row = fields(state)
        ids = int32s(row.history_token_ids, row.num_history)
        last = tokens[-scope:] if isinstance(scope, int) else tokens
        in_scope = state.output_token_ids if scope == "output" else last
        assert sorted(ids) == sorted(set(tokens))
        assert int32s(row.history_total_counts, row.num_history) == [tokens.count(i) for i in ids]
        assert int32s(row.history_output_counts, row.num_history) == [state.output_token_ids.count(i) for i in ids]
        assert int32s(row.history_scope_counts, row.num_history) == [in_scope.count(i) for i in ids]


@pytest.mark.parametrize("params", [{"frequency_penalty": 1.0}, {"dry_multiplier": 1.0}, {"no_repeat_ngram_size": 2}])
def test_ids_without_a_logit_matter_to_penalties_alone(params):
    """A prompt with ids beyond the logits' width is sampled as any other; a penalty refuses it and says what to do."""
    sampler, logits, prompt = Sampler(8), np.arange(8, dtype=np.float32), [1, 9, 2]
    plain = SamplingState(SamplingParams(seed=1, top_k=3), prompt)
    assert (
        sampler.sample(logits, [plain]).token_ids
        == sampler.sample(logits, [SamplingState(SamplingParams(seed=1, top_k=3), [1, 2])]).token_ids
    )
    with pytest.raises(ParameterError, match=r"prompt_token_ids=9: must be below vocab_size=8, or left out"):
        sampler.sample(logits, [SamplingState(SamplingParams(seed=1, **params), prompt)])
    sampler.sample(logits, [SamplingState(SamplingParams(seed=1, **params), [1, 2])])
