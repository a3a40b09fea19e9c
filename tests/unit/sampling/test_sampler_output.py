"""SamplerOutput: shapes, modes and ownership of its arrays; the profiles of a sampler, and `score`."""

import copy
import pickle

import numpy as np
import pytest

from decoding import Sampler, SamplerOutput, SamplingParams, SamplingState
from decoding.sampling.kernel.library import ffi
from decoding.sampling.output import RECORD, TOKEN_ID
from decoding.sampling.stages import PROFILES, Profile, Rule

LOGITS = (np.random.default_rng(2).standard_normal((3, 50)) * 3).astype(np.float32)
MODES = ("final", "raw", "scaled", "penalized")
NAMES = (
    *("token_ids", "logprobs", "all_logprobs", "raw_logprobs", "ranks", "surprises"),
    *("top_token_ids", "top_logprobs", "all_top_logprobs"),
)


def sample(*params, sampler=None):
    """Return the output of one row per SamplingParams."""
    states = [SamplingState(one) for one in params]
    return (sampler or Sampler(50)).sample(LOGITS[: len(params)], states, commit=False)


def test_the_record_agrees_with_the_header():
    """The numpy record has the fields, offsets and size of C's decoding_result."""
    layout = ffi.typeof("decoding_result").fields
    assert {name: field.offset for name, field in layout} == {name: RECORD.fields[name][1] for name in RECORD.names}
    assert ffi.sizeof("decoding_result") == RECORD.itemsize
    assert RECORD.fields["token_id"][1] == 4 * TOKEN_ID


@pytest.mark.parametrize("logprobs", [None, 0, 1, 4])
@pytest.mark.parametrize("modes", ["raw", ("final",), MODES[:2], MODES])
def test_shapes_and_types(logprobs, modes):
    """The arrays have the shapes [rows], [rows, M], [rows, N] and [rows, M, N], where M is at least 1."""
    output = sample(SamplingParams(seed=0, logprobs=logprobs, logprobs_mode=modes), SamplingParams(seed=1))
    num_modes = 1 if logprobs is None or modes == "raw" else len(modes)
    shapes = [(2,), (2,), (2, num_modes), (2,), (2,), (2,)]
    shapes += [(2, logprobs or 0), (2, logprobs or 0), (2, num_modes, logprobs or 0)]
    arrays = [getattr(output, name) for name in NAMES]
    assert [array.shape for array in arrays] == shapes
    ints = {"token_ids", "ranks", "top_token_ids"}
    assert [array.dtype for array in arrays] == [np.int32 if name in ints else np.float32 for name in NAMES]
    assert len(output) == 2
    assert output.errors == (None, None)


def test_modes_together_agree_with_each_alone():
    """Each mode gives the same numbers as alone; the first mode orders the top-N and the ranks."""
    several = sample(SamplingParams(seed=5, temperature=0.7, top_k=9, logprobs=6, logprobs_mode=MODES))
    first = sample(SamplingParams(seed=5, temperature=0.7, top_k=9, logprobs=6, logprobs_mode=MODES[0]))
    assert several.ranks.tolist() == first.ranks.tolist()
    assert several.top_token_ids.tolist() == first.top_token_ids.tolist()
    assert several.logprobs.tobytes() == several.all_logprobs[:, 0].tobytes()
    assert several.top_logprobs.tobytes() == several.all_top_logprobs[:, 0].tobytes()
    assert several.raw_logprobs.tobytes() == several.all_logprobs[:, 1].tobytes()
    for number, mode in enumerate(MODES):
        alone = sample(SamplingParams(seed=5, temperature=0.7, top_k=9, logprobs=6, logprobs_mode=mode))
        assert several.all_logprobs[:, number].tobytes() == alone.logprobs.tobytes()
        of_alone = dict(zip(alone.top_token_ids[0].tolist(), alone.top_logprobs[0].tolist(), strict=True))
        of_several = zip(several.top_token_ids[0].tolist(), several.all_top_logprobs[0, number].tolist(), strict=True)
        assert all(of_alone.get(token_id, logprob) == logprob for token_id, logprob in of_several)


def test_rows_with_fewer_modes_are_padded():
    """A row with fewer modes or entries than another is padded with NaN, -inf and -1."""
    output = sample(SamplingParams(logprobs=3, logprobs_mode=MODES[:3]), SamplingParams(logprobs=1), SamplingParams())
    assert np.isnan(output.all_logprobs).tolist() == [[False] * 3, [False, True, True], [True] * 3]
    assert (output.top_token_ids[1:] >= 0).tolist() == [[True, False, False], [False] * 3]
    assert (output.all_top_logprobs[1:] > -np.inf).sum() == 1


def test_surprises_of_mirostat():
    """A row with mirostat reports -log2 of the drawn probability; other rows report NaN."""
    output = sample(SamplingParams(seed=1, mirostat_tau=3.0, logprobs=0, logprobs_mode="final"), SamplingParams())
    assert output.surprises[0] == pytest.approx(-output.logprobs[0] / np.log(2), rel=1e-6)
    assert np.isnan(output.surprises[1])


def test_later_calls_do_not_change_an_output():
    """Later calls of the sampler do not change an output."""
    sampler, params = Sampler(50), SamplingParams(seed=0, logprobs=2, logprobs_mode=MODES)
    states = [SamplingState(params, stream=row) for row in range(3)]
    first = sampler.sample(LOGITS, states)
    before = copy.deepcopy(first)
    later = sampler.sample(LOGITS[::-1], states)
    for name in NAMES:
        assert getattr(first, name).tobytes() == getattr(before, name).tobytes()
        assert not np.shares_memory(getattr(first, name), getattr(later, name))


def test_an_output_can_be_saved():
    """An output can be pickled."""
    output = sample(SamplingParams(seed=3, logprobs=2))
    ids = output.token_ids.tolist()
    restored = pickle.loads(pickle.dumps(output))
    assert (restored.token_ids.tolist(), restored.errors) == (ids, (None,))
    assert restored.top_logprobs.tobytes() == output.top_logprobs.tobytes()


def test_joined():
    """Outputs of some rows each, joined, equal the output of all rows."""
    states = [SamplingState(SamplingParams(seed=seed, logprobs=2, logprobs_mode=MODES[:2])) for seed in range(3)]
    parts = [Sampler(50).sample(LOGITS[part], states[part], commit=False) for part in (slice(1), slice(1, 3))]
    output, joined = Sampler(50).sample(LOGITS, states, commit=False), SamplerOutput.joined(parts)
    for name in NAMES:
        assert getattr(joined, name).tobytes() == getattr(output, name).tobytes()
    assert len(SamplerOutput.joined([])) == 0


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_by_name_or_by_itself(name):
    """A profile given by name or as a Profile makes the same sampler."""
    by_name, by_itself = Sampler(50, profile=name), Sampler(50, profile=PROFILES[name])
    assert by_name.profile is by_itself.profile is PROFILES[name]
    params = SamplingParams(seed=2, temperature=0.6, top_p=0.7, top_k=5, typical_p=0.8, min_p=0.05)
    assert sample(params, sampler=by_name).words.tobytes() == sample(params, sampler=by_itself).words.tobytes()


def test_the_order_of_a_profile_is_the_order_that_runs():
    """The order of top_k and top_p in a profile changes the distribution."""
    stages = {stage.name: stage for stage in PROFILES["openai"].stages}
    orders = (("temperature", "top_p", "top_k"), ("temperature", "top_k", "top_p"))
    p = np.array([0.3, 0.3, 0.25, 0.15])
    kept = []
    for order in orders:
        names = ("finite_check", "raw_snapshot", *order, "cut", "draw")
        profile = Profile("mine", tuple(stages[name] for name in names), Rule(0))
        state = SamplingState(SamplingParams(top_k=3, top_p=0.65))
        probabilities = Sampler(4, profile=profile).probabilities(np.log(p).astype(np.float32), [state])
        kept.append(np.count_nonzero(probabilities))
    assert kept == [3, 2]


@pytest.mark.parametrize("profile", ["OpenAI", "", None, 1, ("openai",)])
def test_profiles_are_checked(profile):
    """A wrong profile raises an error that lists the names of the profiles."""
    with pytest.raises(ValueError, match=r"profile=.*'openai', 'transformers', 'llama_cpp', 'vllm'"):
        Sampler(4, profile=profile)


def test_score_ignores_profile_and_num_valid_tokens():
    """`score` reports raw log-probabilities, whatever the profile and num_valid_tokens."""
    plain, other = Sampler(50), Sampler(50, profile="llama_cpp", num_valid_tokens=10)
    for sampler in (plain, other):
        output = sampler.score(LOGITS, [49, 0, 7], num_top=2)
        assert output.words.tobytes() == plain.score(LOGITS, [49, 0, 7], num_top=2).words.tobytes()
        assert output.token_ids.tolist() == [49, 0, 7]
