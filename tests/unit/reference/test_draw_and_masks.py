"""The reference sampler on rows small enough to compute by hand."""

import math

import numpy as np
import pytest

from decoding.errors import EmptySupportError, NonFiniteLogitsError
from decoding.params import SamplingParams
from decoding.reference import Row, logprobs, random_words, rank, sample_row, top_token_ids
from decoding.reference.masks import unpack_bitmask

INF = float("inf")


def run(logits, *, seed=0, prompt=(), output=(), eos=(), bitmask=None, valid=None, policy="raise", **params):
    """Run one row through the whole pipeline."""
    return sample_row(
        Row(
            logits=np.array(logits, np.float32),
            params=SamplingParams(**params),
            seed=seed,
            prompt_token_ids=prompt,
            output_token_ids=output,
            eos_token_ids=eos,
            bitmask=bitmask,
            num_valid_tokens=valid,
            on_nonfinite=policy,
        )
    )


def edited(*args, **kwargs):
    """Return the row after the hard masks."""
    return run(*args, **kwargs).stage_rows["hard_masks"].tolist()


def kept(*args, **kwargs):
    """Return the ids of the tokens that can be drawn."""
    return np.flatnonzero(run(*args, **kwargs).probabilities).tolist()


@pytest.mark.parametrize(
    ("scope", "expected"),
    [("prompt+output", [1, -4, 1.5]), ("output", [2, -4, 3]), (1, [2, -4, 3]), (2, [2, -4, 1.5])],
)
def test_repetition_penalty(scope, expected):
    """Positive logits are divided and negative ones multiplied, once per token in the scope."""
    row = edited([2, -2, 3], repetition_penalty=2, repetition_penalty_scope=scope, prompt=[0, 0, 2], output=[1])
    assert row == expected


def test_frequency_and_presence_count_output_only():
    """Output tokens lose count * frequency_penalty + presence_penalty; prompt tokens lose nothing."""
    row = edited([1, 1, 1], frequency_penalty=0.5, presence_penalty=0.25, prompt=[2], output=[0, 0, 1])
    assert row == [-0.25, 0.25, 1]


def test_context_frequency_counts_prompt_and_output():
    """Tokens lose count * context_frequency_penalty, counted over prompt and output."""
    assert edited([1, 1, 1], context_frequency_penalty=0.5, prompt=[2, 0], output=[0]) == [0, 1, 0.5]


def test_edits_round_to_float32_at_each_step():
    """Each operation of a penalty is rounded to float32."""
    f, p = np.float32(0.1), np.float32(0.2)
    expected = np.float32(1) - (np.float32(3) * f + p)
    assert edited([1, 0], frequency_penalty=0.1, presence_penalty=0.2, output=[0, 0, 0])[0] == expected


def test_bias_is_not_a_ban_and_does_not_lift_one():
    """A bias of -100 bans no token, and a bias of 100 does not lift a ban."""
    assert edited([0, 0, -INF], logit_bias={0: -100, 2: 100}) == [-100, 0, -INF]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"allowed_token_ids": [1, 3]}, [1, 3]),
        ({"banned_token_ids": [1, 3]}, [0, 2]),
        ({"allowed_token_ids": [1, 3], "banned_token_ids": [1]}, [3]),
        ({"valid": 3}, [0, 1, 2]),
        ({"bitmask": np.array([0b1010], np.uint32)}, [1, 3]),
        ({"min_tokens": 1, "stop_token_ids": [0], "eos": [1]}, [2, 3]),
        ({"min_tokens": 1, "stop_token_ids": [0], "eos": [1], "ignore_eos": True}, [1, 2, 3]),
        ({"min_tokens": 1, "stop_token_ids": [0], "eos": [1], "output": [2]}, [0, 1, 2, 3]),
    ],
)
def test_hard_masks(arguments, expected):
    """Each mask bans its tokens, and together they ban the union."""
    assert kept([0, 0, 0, 0], **arguments) == expected


def test_bitmask_words():
    """Token 32 is the lowest bit of the second word of a bitmask."""
    mask = unpack_bitmask(np.array([1 << 31, 1], np.uint32), 40)
    assert np.flatnonzero(mask).tolist() == [31, 32]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.0}, [1]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.81}, [0, 1, 3]),
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        ({"min_p": 0.24}, [0, 1, 2, 3]),
        ({"min_p": 0.26}, [1, 3]),
        ({"min_p": 1.0}, [1, 3]),
        ({"top_k": 3, "top_p": 0.9}, [0, 1, 3]),
        ({"top_k": 3, "top_p": 0.88}, [1, 3]),
        ({"temperature": 0.0}, [1]),
    ],
)
def test_truncation(arguments, expected):
    """top_k, top_p and min_p keep the expected tokens of 0.1, 0.4, 0.1, 0.4; ties go to the lower id."""
    assert kept(np.log([0.1, 0.4, 0.1, 0.4]), **arguments) == expected


def test_top_p_is_renormalised_after_top_k():
    """top_p uses the probabilities renormalised over the tokens that top_k left."""
    assert kept(np.log([0.4, 0.3, 0.2, 0.1]), top_p=0.55) == [0, 1]
    assert kept(np.log([0.4, 0.3, 0.2, 0.1]), top_p=0.55, top_k=2) == [0]


def test_the_cut():
    """A weight of 2**-39.99 of the largest is kept, and one of 2**-40.01 is dropped."""
    ln2 = math.log(2)
    assert kept([0, -39.99 * ln2, -40.01 * ln2]) == [0, 1]
    assert kept([0, -39.99 * ln2, -40.01 * ln2], temperature=0.99) == [0]


def test_temperature_cannot_overflow():
    """Logits and a temperature near the end of float32 do not overflow."""
    row = run([-3.4e38, 3.4e38], temperature=1e38)
    np.testing.assert_allclose(row.stage_rows["temperature"], [-6.8, 0], rtol=1e-6)


def test_temperature_makes_no_ties():
    """Logits whose tempered exponents round to the same number still rank by logit."""
    row = run([1e38, 1e-38, 2e-38], top_k=2, temperature=1e38)
    assert row.stage_rows["temperature"][1] == row.stage_rows["temperature"][2]
    assert np.flatnonzero(row.probabilities).tolist() == [0, 2]


def test_the_four_modes():
    """Raw, penalized, scaled and final log-probabilities are log-softmaxes of four different rows."""
    row = run([0, 0, 0, -INF], banned_token_ids=[0], temperature=2, logit_bias={2: math.log(4)}, top_k=1)
    p = {mode: np.exp(logprobs(row, mode)).round(6).tolist() for mode in ("raw", "penalized", "scaled", "final")}
    third = round(1 / 3, 6)
    assert p["raw"] == [third, third, third, 0]
    assert p["penalized"] == [0, 0.2, 0.8, 0]
    assert p["scaled"] == [0, third, round(2 / 3, 6), 0]
    assert p["final"] == [0, 0, 1, 0]


def test_ranks_and_top_follow_the_total_order():
    """Ties rank by id, -0.0 ties with 0.0, and banned tokens are not listed."""
    row = run([0.0, 1.0, -0.0, 1.0, -INF], banned_token_ids=[1])
    assert [rank(row, "raw", i) for i in range(5)] == [3, 1, 4, 2, 5]
    assert top_token_ids(row, "raw", 9).tolist() == [1, 3, 0, 2]
    assert top_token_ids(row, "final", 2).tolist() == [3, 0]


def test_a_weighed_draw_inverts_the_cdf_in_id_order():
    """A weighed draw inverts the CDF: of 1,000 equal tokens it draws the integer part of 1,000 u."""
    for seed in range(20):
        (word, *_) = random_words(seed, 0, 0, 0)
        assert run(np.zeros(1000), seed=seed, top_k=1000).token_id == word * 1000 >> 64


def test_an_unweighed_draw_proposes_block_then_offset():
    """A rejection draw proposes a block of 256 tokens, then an offset in the block."""
    for seed in range(20):
        block, place, *_ = random_words(seed, 0, 0, 0)
        assert run(np.zeros(1024), seed=seed).token_id == (block * 4 >> 64) * 256 + (place * 256 >> 64)


def test_a_rejected_proposal_is_followed_by_the_next_attempt():
    """After a rejected proposal the next attempt follows, until the only likely token is hit."""
    logits = np.full(256, -60.0)
    logits[77] = 0.0
    assert {run(logits, seed=seed).token_id for seed in range(5)} == {77}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"logits": [0, np.nan]}, NonFiniteLogitsError(0, 1, "finite_check")),
        ({"logits": [0, 1, INF]}, NonFiniteLogitsError(0, 2, "finite_check")),
        ({"logits": [0, np.nan, INF], "policy": "mask"}, NonFiniteLogitsError(0, 2, "finite_check")),
        ({"logits": [-INF, -INF]}, EmptySupportError(0, "finite_check")),
        ({"logits": [np.nan, np.nan], "policy": "mask"}, EmptySupportError(0, "finite_check")),
        ({"logits": [0, 0], "banned_token_ids": [0, 1]}, EmptySupportError(0, "hard_masks")),
        (
            {"logits": [-3e38, -3e38], "repetition_penalty": 2, "prompt": [1, 0]},
            NonFiniteLogitsError(0, 0, "repetition_penalty"),
        ),
        (
            {"logits": [3e38, -3e38], "frequency_penalty": -3e38, "output": [0]},
            NonFiniteLogitsError(0, 0, "frequency_presence"),
        ),
        (
            {"logits": [3e38, -3e38], "context_frequency_penalty": 3e38, "prompt": [0, 1]},
            NonFiniteLogitsError(0, 1, "context_frequency_penalty"),
        ),
        ({"logits": [3e38, -3e38], "logit_bias": {0: 3e38}}, NonFiniteLogitsError(0, 0, "logit_bias")),
    ],
)
def test_errors_name_stage_and_token(arguments, error):
    """An error of a row names the stage and the first bad token."""
    with pytest.raises(type(error)) as caught:
        run(**arguments)
    assert vars(caught.value) == vars(error)


def test_nan_is_masked_on_request():
    """With on_nonfinite="mask", NaN counts as -inf."""
    assert kept([0, np.nan, 0], policy="mask") == [0, 2]
