"""Invalid arguments of Sampler and SamplingState raise one of the package's errors, which names the parameter."""

import copy
import pickle

import numpy as np
import pytest

from decoding.errors import LogitsError, ParameterError
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler, SamplingState
from decoding.sampling.stages import PROFILES, Profile

FLAT = np.zeros((1, 4), np.float32)


def problem_of(function):
    """Return the name of the one parameter that the call is refused for."""
    with pytest.raises(ParameterError) as caught:
        function()
    (problem,) = caught.value.problems
    assert problem.rule
    return problem.parameter.partition("[")[0]


@pytest.mark.parametrize("vocab_size", [0, -1, 2**20 + 1, 2**40, 1.0, True, "4", None])
def test_vocab_size(vocab_size):
    """vocab_size must be an integer from 1 to 1,048,576."""
    assert problem_of(lambda: Sampler(vocab_size)) == "vocab_size"


@pytest.mark.parametrize("valid", [0, 5, -1, 1.0, True, "3"])
def test_num_valid_tokens(valid):
    """num_valid_tokens must be an integer from 1 to vocab_size."""
    assert problem_of(lambda: Sampler(4, num_valid_tokens=valid)) == "num_valid_tokens"


def test_policy_values():
    """on_nonfinite and on_error accept only their documented values."""
    assert problem_of(lambda: Sampler(4, on_nonfinite="ignore")) == "on_nonfinite"
    state = SamplingState(SamplingParams())
    assert problem_of(lambda: Sampler(4).sample(FLAT, [state], on_error="skip")) == "on_error"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("params", {"params": None}),
        ("params", {"params": {"top_p": 1}}),
        ("choice", {"choice": -1}),
        ("choice", {"choice": 2**64}),
        ("stream", {"stream": -1}),
        ("stream", {"stream": 1.0}),
        ("prompt_token_ids", {"prompt_token_ids": [0, -1]}),
        ("prompt_token_ids", {"prompt_token_ids": "abc"}),
        ("prompt_token_ids", {"prompt_token_ids": 3}),
        ("eos_token_ids", {"eos_token_ids": [2**31]}),
        ("eos_token_ids", {"eos_token_ids": [True]}),
    ],
)
def test_state_arguments(name, arguments):
    """Each argument of a state is checked when the state is created."""
    assert problem_of(lambda: SamplingState(**({"params": SamplingParams()} | arguments))) == name


@pytest.mark.parametrize(
    ("name", "params", "rest"),
    [
        ("prompt_token_ids", {"presence_penalty": 1.0}, {"prompt_token_ids": [1, 4]}),
        ("eos_token_ids", {"min_tokens": 1}, {"eos_token_ids": [4]}),
        ("logit_bias", {"logit_bias": {4: 1.0}}, {}),
        ("allowed_token_ids", {"allowed_token_ids": [0, 4]}, {}),
        ("banned_token_ids", {"banned_token_ids": [4]}, {}),
        ("stop_token_ids", {"stop_token_ids": [4], "min_tokens": 2}, {}),
        ("logprobs", {"logprobs": 5}, {}),
    ],
)
def test_ids_outside_the_vocabulary(name, params, rest):
    """An id outside the vocabulary raises an error that names the parameter, and is never skipped."""
    state = SamplingState(SamplingParams(**params), **rest)
    assert problem_of(lambda: Sampler(4).sample(FLAT, [state])) == name
    assert problem_of(lambda: Sampler(4).probabilities(FLAT, [state])) == name


def test_output_ids_outside_the_vocabulary():
    """An appended id outside the vocabulary is refused by the next call until it is truncated."""
    state = SamplingState(SamplingParams(presence_penalty=1.0))
    state.append(9)
    assert problem_of(lambda: Sampler(4).sample(FLAT, [state])) == "output_token_ids"
    state.truncate(0)
    Sampler(4).sample(FLAT, [state])


@pytest.mark.parametrize("token_id", [-1, 2**31, 1.0, True, "1", None])
def test_append(token_id):
    """Only a token id can be appended; a refused value leaves the state unchanged."""
    state = SamplingState(SamplingParams())
    assert problem_of(lambda: state.append(token_id)) == "token_id"
    assert state.output_token_ids == []


@pytest.mark.parametrize("num_tokens", [-1, 3, 1.0, True, None])
def test_truncate(num_tokens):
    """A state can only be truncated to a number of tokens from 0 to its current one."""
    state = SamplingState(SamplingParams())
    state.append(1)
    state.append(2)
    assert problem_of(lambda: state.truncate(num_tokens)) == "num_tokens"
    assert state.output_token_ids == [1, 2]


@pytest.mark.parametrize(
    "mask",
    [[1], np.zeros(1, np.int64), np.zeros((1, 1), np.uint32), np.zeros(4, np.uint32)[::2], np.zeros(1, bool)],
    ids=["list", "int64", "2-d", "strided", "bool"],
)
def test_bitmask_kind(mask):
    """A bitmask must be a contiguous vector of 32-bit words."""
    state = SamplingState(SamplingParams())
    with pytest.raises(ParameterError, match="bitmask"):
        state.bitmask = mask


@pytest.mark.parametrize("num_words", [0, 2])
def test_bitmask_length(num_words):
    """A bitmask must have exactly as many words as the vocabulary needs."""
    state = SamplingState(SamplingParams())
    state.bitmask = np.full(num_words, 2**32 - 1, np.uint32)
    assert problem_of(lambda: Sampler(4).sample(FLAT, [state])) == "bitmask"


def test_rows_and_states_match():
    """There must be one state per row, and with commit each state may occur once only."""
    state = SamplingState(SamplingParams())
    sampler = Sampler(4)
    assert problem_of(lambda: sampler.sample(FLAT, [])) == "states"
    assert problem_of(lambda: sampler.sample(FLAT, [state, SamplingState(SamplingParams())])) == "states"
    assert problem_of(lambda: sampler.sample(np.zeros((2, 4), np.float32), [state, state])) == "states"
    assert len(sampler.sample(np.zeros((2, 4), np.float32), [state, state], commit=False).token_ids) == 2


def test_an_empty_batch():
    """An empty batch gives an empty output."""
    output = Sampler(4).sample(np.zeros((0, 4), np.float32), [])
    assert output.token_ids.shape == (0,)
    assert Sampler(4).probabilities(np.zeros((3, 4), np.float32)[[]], []).shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("token_ids", {"token_ids": []}),
        ("token_ids", {"token_ids": [0, 1]}),
        ("token_ids", {"token_ids": [4]}),
        ("token_ids", {"token_ids": [-1]}),
        ("token_ids", {"token_ids": 0}),
        ("num_top", {"token_ids": [0], "num_top": 5}),
        ("num_top", {"token_ids": [0], "num_top": -1}),
        ("num_top", {"token_ids": [0], "num_top": True}),
    ],
)
def test_score_arguments(name, arguments):
    """`score` needs one id of the vocabulary per row, and num_top from 0 to the vocabulary size."""
    assert problem_of(lambda: Sampler(4).score(FLAT, **arguments)) == name


@pytest.mark.parametrize("states", [None, [1], [SamplingParams()], SamplingState(SamplingParams()), iter(())])
def test_states(states):
    """`states` must be a list of SamplingState."""
    assert problem_of(lambda: Sampler(4).sample(FLAT, states)) == "states"


def test_masked_arrays_are_refused():
    """Masked arrays are refused, because their mask would be ignored."""
    with pytest.raises(LogitsError, match="MaskedArray"):
        Sampler(4).sample(np.ma.masked_array(FLAT, FLAT == 0), [SamplingState(SamplingParams())])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_a_copied_state_is_independent(duplicate):
    """A copied state draws the same tokens as the original, and shares nothing with it."""
    logits = np.random.default_rng(0).standard_normal((1, 40), np.float32)
    params = SamplingParams(presence_penalty=0.5, repetition_penalty=1.2, repetition_penalty_scope=3)
    state, sampler = SamplingState(params, [1, 2, 3], stream=5, choice=2), Sampler(40)
    state.bitmask = np.array([0xFFFF_FFF0, 0xFF], np.uint32)
    for _ in range(5):
        sampler.sample(logits, [state])
    twin = duplicate(state)
    drawn = [int(sampler.sample(logits, [twin]).token_ids[0]) for _ in range(4)]
    assert state.position == 5
    assert [int(sampler.sample(logits, [state]).token_ids[0]) for _ in range(4)] == drawn
    assert (twin.seed, twin.params) == (state.seed, params)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda sampler: pickle.loads(pickle.dumps(sampler))])
def test_a_sampler_copies_and_pickles(duplicate):
    """A copied or pickled sampler has the same arguments and draws the same tokens."""
    sampler = Sampler(4, profile="vllm", num_valid_tokens=3, on_nonfinite="mask", num_threads=2)
    other = duplicate(sampler)
    assert repr(other) == repr(sampler)
    logits = np.array([[0.1, np.nan, 0.3, 9.0]], np.float32)
    draws = [one.sample(logits, [SamplingState(SamplingParams(seed=3))]).words.tobytes() for one in (sampler, other)]
    assert draws[0] == draws[1]


def test_reprs_help():
    """The reprs show arguments and results, and no memory addresses."""
    state = SamplingState(SamplingParams(seed=3), [1])
    output = Sampler(4).sample(FLAT, [state])
    assert repr(Sampler(4, num_valid_tokens=3)) == "Sampler(4, num_valid_tokens=3)"
    assert repr(output) == f"<SamplerOutput token_ids={output.token_ids.tolist()}>"
    place = "1 prompt and 1 output tokens, seed=3, choice=0, stream=0"
    assert repr(state) == f"<SamplingState {place}, SamplingParams(seed=3)>"
    assert " at 0x" not in repr(Sampler(4).profile) + repr(Sampler(4).explain(FLAT, state))


@pytest.mark.parametrize("name", ["vocab_size", "profile", "num_threads", "num_valid_tokens", "on_nonfinite"])
def test_sampler_attributes_are_read_only(name):
    """Attributes of a sampler are read-only."""
    with pytest.raises(AttributeError):
        setattr(Sampler(4), name, 2)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array])
def test_ids_of_numpy(kind):
    """Integer scalars and arrays of numpy are accepted as token ids and prompts."""
    state = SamplingState(SamplingParams(presence_penalty=1.0), np.array([1, 2], np.uint16))
    state.append(kind(3))
    assert (state.prompt_token_ids, state.output_token_ids) == ((1, 2), [3])
    assert {type(token_id) for token_id in (*state.prompt_token_ids, *state.output_token_ids)} == {int}


@pytest.mark.parametrize(
    "wrong", [np.array([1, -1]), np.array([2**31]), np.array([[1]]), np.array([1.0]), np.array([True])]
)
def test_arrays_that_are_no_token_ids(wrong):
    """Negative, too large, two-dimensional, real and boolean arrays are refused as prompts."""
    assert problem_of(lambda: SamplingState(SamplingParams(), wrong)) == "prompt_token_ids"


def test_torch_ids_and_masks():
    """Torch tensors are accepted as token ids, prompts and bitmasks."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = SamplingState(SamplingParams(presence_penalty=1.0), torch.tensor([1, 2]))
    state.append(torch.tensor(3))
    assert (state.prompt_token_ids, state.output_token_ids) == ((1, 2), [3])
    masks = torch.tensor([[0b0100], [0b0010]], dtype=torch.int32)
    state.bitmask = masks[0]
    assert Sampler(4).sample(FLAT, [state]).token_ids.tolist() == [2]
    assert Sampler(4).verify(np.zeros((2, 4), np.float32), state, [2], bitmasks=masks).token_ids == [2, 1]
    for wrong in (torch.tensor(True), torch.tensor(1.0), torch.tensor([1, 2])):
        assert problem_of(lambda wrong=wrong: state.append(wrong)) == "token_id"
    with pytest.raises(ParameterError, match="bitmask"):
        state.bitmask = torch.zeros(1)


def with_wide_bitmask(state):
    """Set a bitmask for 64 tokens."""
    state.bitmask = np.full(2, 2**32 - 1, np.uint32)


WITHOUT_PENALTY = Profile(
    "short", [stage for stage in PROFILES["openai"].stages if "frequency_penalty" not in stage.parameters]
)


@pytest.mark.parametrize(
    ("parameter", "change", "sampler"),
    [
        ("bitmask", with_wide_bitmask, Sampler(4)),
        ("output_token_ids", lambda state: state.append(4), Sampler(4)),
        ("output_token_ids", lambda state: state.append(3), Sampler(3)),
        ("frequency_penalty", lambda state: None, Sampler(4, profile=WITHOUT_PENALTY)),
    ],
)
def test_a_state_is_checked_again_after_a_change(parameter, change, sampler):
    """A state that a sampler has accepted is refused once it, or another sampler, does not fit."""
    state = SamplingState(SamplingParams(frequency_penalty=0.5, seed=1))
    first = sampler if sampler.vocab_size == 4 and sampler.profile is PROFILES["openai"] else Sampler(4)
    for _ in range(2):
        first.sample(FLAT, [state])
    change(state)
    assert problem_of(lambda: sampler.sample(FLAT[:, : sampler.vocab_size], [state])) == parameter


def test_states_may_alternate_between_samplers():
    """Two samplers of other sizes accept the same state in turn, with the tokens of either."""
    state = SamplingState(SamplingParams(presence_penalty=0.5, seed=1))
    for size in (4, 9, 4):
        Sampler(size).sample(np.zeros((1, size), np.float32), [state], commit=size == 4)
    assert state.position == 2
