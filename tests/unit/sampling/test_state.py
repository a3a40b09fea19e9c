"""SamplingState: the values that reach the kernel, saving and restoring."""

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
    """Return the kernel's row of a state."""
    return state.kernel_row.struct


def int32s(pointer, length):
    """Return `length` integers from a pointer."""
    return [pointer[index] for index in range(length)]


def same_draws(one, other, num_tokens=4):
    """Return True if both states draw the same tokens from now on, with the same log-probabilities."""
    logits = np.random.default_rng(3).standard_normal((num_tokens, 40)).astype(np.float32)
    sampler = Sampler(40)
    return all(
        sampler.sample(row, [one]).words.tobytes() == sampler.sample(row, [other]).words.tobytes() for row in logits
    )


def test_every_parameter_of_the_stages_is_tested():
    """Every parameter of a stage is a number for C or has a test of its own."""
    asked = {name for stage in PIPELINE if stage.has_place for name in stage.parameters}
    elsewhere = {"repetition_penalty_scope", "logit_bias", "min_tokens", "allowed_token_ids", "banned_token_ids"}
    followed = {"mirostat_tau", "mirostat_eta", "mirostat_version", "adaptive_p_target", "adaptive_p_decay", "p_less"}
    assert asked == {*NUMBERS, *SEQUENCES, *elsewhere, *followed}
    assert set(STAGE_NAMES) == {stage.number for stage in PIPELINE}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_reach_the_kernel(name):
    """Each number reaches the kernel under its name, rounded to float32, and changes no other field."""
    given, neutral = SamplingState(SamplingParams(seed=0, **{name: NUMBERS[name]})), SamplingState(SamplingParams())
    assert getattr(fields(given), name) == to_float32(NUMBERS[name])
    assert getattr(fields(neutral), name) != to_float32(NUMBERS[name])
    for other in NUMBERS:
        if other != name:
            assert getattr(fields(given), other) == getattr(fields(neutral), other)


def test_none_is_the_neutral_value():
    """A parameter that is None becomes C's neutral value."""
    row = fields(SamplingState(SamplingParams(dry_range=None)))
    assert (row.top_k, row.dry_range, row.no_repeat_ngram_size) == (2**31 - 1, 2**31 - 1, 0)
    assert (row.top_n_sigma, row.typical_p, row.mirostat_mu) == (math.inf, 1.0, 0.0)


def test_sequences_reach_the_kernel():
    """Sequences reach the kernel as concatenated token ids and their lengths."""
    state = SamplingState(SamplingParams(**SEQUENCES))  # keeps the arrays alive
    row = fields(state)
    for struct, sequences in ((row.bad_words, [[1], [2, 3]]), (row.dry_breakers, [[4, 5, 6], [7]])):
        assert int32s(struct.lengths, struct.num_sequences) == [len(sequence) for sequence in sequences]
        assert int32s(struct.token_ids, sum(map(len, sequences))) == [i for sequence in sequences for i in sequence]


@pytest.mark.parametrize("name", SEQUENCES)
def test_text_in_sequences_is_refused(name):
    """Strings in breakers and bad words are refused, because a sampler has no tokenizer."""
    with pytest.raises(ParameterError, match=rf"{name}='\.'.*token ids") as caught:
        SamplingState(SamplingParams(**{name: [[1], "."]}))
    assert [problem.parameter for problem in caught.value.problems] == [name]


@pytest.mark.parametrize("name", SEQUENCES)
def test_ids_of_sequences_must_be_in_the_vocabulary(name):
    """A token id outside the vocabulary in a sequence raises an error that names the parameter."""
    state = SamplingState(SamplingParams(**{name: [[1, 4]]}))
    with pytest.raises(ParameterError, match=f"{name}=4"):
        Sampler(4).sample(np.zeros(4, np.float32), [state])


@pytest.mark.parametrize("params", [{"dry_multiplier": 1.0}, {"no_repeat_ngram_size": 2}, {"bad_words": [[1]]}])
def test_the_context_grows_in_place_and_shrinks(params):
    """The context holds prompt and output in order, after any appends and truncations."""
    state = SamplingState(SamplingParams(**params), [5, 6])
    for count in (0, 1, 300, 300, 5):
        state.truncate(min(count, state.position))
        for token_id in range(state.position, count):
            state.append(token_id)
        row = fields(state)
        assert int32s(row.context_token_ids, row.num_context) == [5, 6, *range(count)]
        assert row.position == count


def test_no_history_without_a_stage_that_reads_it():
    """Without penalties, DRY, n-grams and bad words the kernel gets no history."""
    state = SamplingState(SamplingParams(), [1, 2, 3])
    state.append(4)
    assert (fields(state).num_history, fields(state).num_context) == (0, 0)


def test_mirostat_follows_the_surprise():
    """Mirostat's bound starts at 2 tau and moves by eta times the excess surprise, in float64."""
    state = SamplingState(MIROSTAT)
    eta, expected = to_float32(0.2), 6.0
    assert state.mirostat_mu == fields(state).mirostat_mu == expected
    for surprise in (5.0, 0.0, 2.25):
        state.append(1, surprise)
        expected -= eta * (surprise - 3.0)
        assert state.mirostat_mu == fields(state).mirostat_mu == expected


def test_a_negative_bound_recovers():
    """A negative mirostat bound reaches the kernel as 0, which keeps one token, and can rise again."""
    state = SamplingState(MIROSTAT)
    state.append(1, 100.0)
    assert state.mirostat_mu == 6.0 - to_float32(0.2) * 97.0 < 0.0
    assert fields(state).mirostat_mu == 0.0
    state.append(1, 0.0)
    assert state.mirostat_mu == pytest.approx(6.0 - 0.2 * 97.0 + 0.6)


def test_sample_records_the_surprise():
    """`sample` updates the bound as `append` with the reported surprise does."""
    logits = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    sampled, appended, sampler = SamplingState(MIROSTAT), SamplingState(MIROSTAT), Sampler(40)
    for _ in range(5):
        output = sampler.sample(logits, [appended], commit=False)
        appended.append(int(output.token_ids[0]), output.surprises[0])
        assert sampler.sample(logits, [sampled]).words.tobytes() == output.words.tobytes()
        assert 0.0 <= output.surprises[0] < np.inf
        assert sampled.mirostat_mu == appended.mirostat_mu != 6.0


def test_truncate_restores_the_bound():
    """Truncation restores the mirostat bound of the position."""
    state, bounds = SamplingState(MIROSTAT), []
    for surprise in range(6):
        bounds.append(state.mirostat_mu)
        state.append(surprise, float(surprise))
    for position in (5, 3, 0):
        state.truncate(position)
        assert state.mirostat_mu == fields(state).mirostat_mu == bounds[position]


def test_the_bound_can_be_set():
    """The mirostat bound can be assigned; None resets it to the initial bound."""
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
    """The mirostat bound must be a finite number, and needs mirostat_tau."""
    with pytest.raises(ParameterError, match="mirostat_mu"):
        SamplingState(MIROSTAT).mirostat_mu = mu
    with pytest.raises(ParameterError, match="mirostat_mu"):
        SamplingState(SamplingParams()).mirostat_mu = 1.0


ADAPTIVE = SamplingParams(adaptive_p_target=0.4, adaptive_p_decay=0.75, seed=1)


def test_adaptive_p_follows_the_drawn_probabilities():
    """The center of adaptive-p is 2 * target minus a decaying average of the drawn probabilities."""
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


def test_the_center_of_adaptive_p_is_clipped():
    """The center of adaptive-p is clipped to the range from 0 to 1."""
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
    """2**-surprise is exact to one part in 10**15, without the C library's pow."""
    state = SamplingState(SamplingParams(adaptive_p_target=0.5, adaptive_p_decay=0.0))
    state.append(1, surprise)
    assert state._averages[-1].weighted_sum == pytest.approx(2.0**-surprise, rel=1e-15)


def test_flags_of_the_kernel():
    """p-less, mirostat's first version and adaptive-p reach the kernel as flag bits."""
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
    """With mirostat, append needs a finite surprise >= 0; a refused value leaves the state unchanged."""
    state = SamplingState(MIROSTAT)
    with pytest.raises(ParameterError, match="surprise"):
        state.append(1, surprise)
    assert (state.position, state.mirostat_mu) == (0, 6.0)


def test_a_surprise_is_refused_without_mirostat():
    """Without mirostat, append refuses a surprise, because it would be ignored."""
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
    """A copied state draws as the original does, also after truncation, and shares nothing with it."""
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
    """`with_params` keeps the tokens, the seed and the random stream."""
    state = SamplingState(SamplingParams(presence_penalty=1.0), [1, 2], stream=5)
    state.append(7)
    other = state.with_params(SamplingParams(temperature=0.0))
    assert (other.seed, other.stream, other.output_token_ids) == (state.seed, 5, [7])
    assert (other.params.temperature, other.position, fields(other).position) == (0.0, 1, 1)


@pytest.mark.parametrize("params", [EVERYTHING, SamplingParams(logit_bias={3: -1.5, 2: 0.1}, seed=-(2**63))])
def test_a_state_through_json(params):
    """`to_dict` returns JSON that restores a state with the same draws."""
    state = SamplingState(params, [1, 2, 3, 1], stream=2**64 - 1, choice=4, eos_token_ids=[9])
    state.bitmask = np.array([0xFFFF_FFF7, 0xFF], np.uint32)
    for token_id in (1, 2, 3):
        state.append(token_id, None if params.mirostat_tau is None else 1.7)
    twin = SamplingState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert twin.params == state.params
    assert twin.to_dict() == state.to_dict()
    assert same_draws(twin, state)


def test_a_state_of_another_stream_version_is_refused():
    """A saved state of another stream version, or without a field, is refused."""
    values = SamplingState(SamplingParams(seed=1)).to_dict()
    with pytest.raises(ParameterError, match="stream_version=0: must be 1"):
        SamplingState.from_dict(values | {"stream_version": 0})
    with pytest.raises(ParameterError, match="with the keys adaptive_p_averages, bitmask"):
        SamplingState.from_dict({name: value for name, value in values.items() if name != "choice"})


def test_fork():
    """A fork has the seed and the tokens so far under another choice, and shares nothing with its origin."""
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
def test_state_attributes_are_read_only(name):
    """Attributes whose assignment would not change the next draw are read-only."""
    with pytest.raises(AttributeError):
        setattr(SamplingState(SamplingParams()), name, 1)


HOST = {"max_tokens": 3, "stop": "x", "n": 2, "echo": True, "suffix": "y", "stop_token_ids": [1], "ignore_eos": True}


@pytest.mark.parametrize("name", HOST)
def test_host_parameters_are_refused(name):
    """Parameters that a sampler would ignore are refused, unless host_parameters=True."""
    params = SamplingParams(**{name: HOST[name]})
    with pytest.raises(ParameterError, match=f"{name}=.*host_parameters=True"):
        SamplingState(params)
    state = SamplingState(params, host_parameters=True)
    assert copy.copy(state).params == params


def test_all_ignored_parameters_are_named_at_once():
    """The error lists all ignored parameters; with min_tokens the stop ids are not ignored."""
    with pytest.raises(ParameterError) as caught:
        SamplingState(SamplingParams(**HOST))
    assert {problem.parameter for problem in caught.value.problems} == set(HOST)
    assert SamplingState(SamplingParams(max_tokens=None, min_tokens=2, stop_token_ids=[1], ignore_eos=True))


@pytest.mark.parametrize("scope", ["prompt+output", "output", 1, 3, 100])
def test_counts_after_random_appends_and_truncations(scope):
    """The token counts stay right through random appends and truncations."""
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
def test_ids_beyond_the_logits_are_refused_by_penalties_only(params):
    """Prompt ids beyond the vocabulary are refused by penalties and n-gram stages only."""
    sampler, logits, prompt = Sampler(8), np.arange(8, dtype=np.float32), [1, 9, 2]
    plain = SamplingState(SamplingParams(seed=1, top_k=3), prompt)
    assert (
        sampler.sample(logits, [plain]).token_ids
        == sampler.sample(logits, [SamplingState(SamplingParams(seed=1, top_k=3), [1, 2])]).token_ids
    )
    with pytest.raises(ParameterError, match=r"prompt_token_ids=9: must be below vocab_size=8, or left out"):
        sampler.sample(logits, [SamplingState(SamplingParams(seed=1, **params), prompt)])
    sampler.sample(logits, [SamplingState(SamplingParams(seed=1, **params), [1, 2])])
