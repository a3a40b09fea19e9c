"""DRY, n-grams and bad words, on contexts short enough to read."""

import numpy as np
import pytest

from decoding.errors import EmptySupportError, NonFiniteLogitsError
from decoding.params import SamplingParams
from decoding.reference import Row, sample_row
from decoding.reference.dry import continued_lengths, dry_penalties, power, since_breaker
from decoding.reference.masks import completed_ngrams, completed_words

A, B, C, D, E = range(5)


def edited(prompt, output, **params):
    """Return a flat row of five tokens after the hard masks."""
    row = Row(logits=np.zeros(5, np.float32), params=SamplingParams(**params), seed=0)
    row.prompt_token_ids, row.output_token_ids = prompt, output
    return sample_row(row).stage_rows["hard_masks"].tolist()


@pytest.mark.parametrize(
    ("context", "breakers", "expected"),
    [
        ([], [], {}),
        ([A], [], {A: 0}),
        ([A, A, A], [], {A: 2}),
        ([A, B, A], [], {A: 0, B: 1}),
        ([A, B, C, A, B], [], {A: 0, B: 0, C: 2}),
        ([B, C, A, B, D, A, B], [], {A: 0, B: 0, C: 1, D: 2}),  # "B" is followed by C, "A B" by D
        ([A, B, C, A, B], [[A]], {A: 0, B: 0, C: 1}),
        ([A, B, C, A, B], [[B]], {A: 0, B: 0, C: 0}),
        ([A, B, C, D, A, B], [[D, A]], {A: 0, B: 0, C: 1, D: 0}),
        ([A, B, C, D, A, B], [[A, D]], {A: 0, B: 0, C: 2, D: 0}),  # never in the context
    ],
)
def test_lengths_of_repetitions(context, breakers, expected):
    """Each token has the length of the longest repeated suffix that it would continue, back to the last breaker."""
    assert continued_lengths(context, breakers) == expected


def test_lengths_agree_with_the_naive_definition():
    """Lengths equal a naive comparison of slices, on 200 random contexts."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        context = rng.integers(0, 3, rng.integers(1, 20)).tolist()
        expected = dict.fromkeys(context, 0)
        for i, token_id in enumerate(context):
            fits = [n for n in range(1, i + 1) if context[i - n : i] == context[-n:]]
            expected[token_id] = max([expected[token_id], *fits])
        assert continued_lengths(context, []) == expected


def test_the_last_breaker_counts():
    """since_breaker returns the number of tokens after the last breaker, or of all tokens without one."""
    assert since_breaker([A, B, C, A, D], [[B], [C]]) == 2
    assert since_breaker([A, B, C], [[B, C]]) == 0
    assert since_breaker([A, B], [[A, B, C], [D]]) == 2


def test_dry_penalties():
    """The DRY penalty is multiplier * base**(n - allowed_length)."""
    params = SamplingParams(dry_multiplier=0.5, dry_base=2, dry_allowed_length=1)
    assert dry_penalties(params, [A, B, C, A, B]) == {C: 1.0}
    assert edited([A, B, C], [A, B], dry_multiplier=0.5, dry_base=2, dry_allowed_length=1) == [0, 0, -1, 0, 0]
    assert edited([A, B, C], [A, B], dry_multiplier=0.5, dry_base=2) == [0, 0, -0.5, 0, 0]
    assert edited([A, B, C], [A, B], dry_multiplier=0.5, dry_allowed_length=3) == [0] * 5


def test_a_breaker_is_never_penalised():
    """A token that is a breaker by itself is not penalised; the first token of a longer breaker is."""
    options = {"dry_multiplier": 1.0, "dry_allowed_length": 1, "dry_base": 1}
    assert edited([A, B, C], [D, A, B], dry_sequence_breakers=[[C]], **options) == [0] * 5
    assert edited([A, B, C], [D, A, B], dry_sequence_breakers=[[C, C]], **options) == [0, 0, -1, 0, 0]


def test_dry_looks_at_the_last_tokens_only():
    """dry_range limits the tokens in which repetitions are searched."""
    options = {"dry_multiplier": 1.0, "dry_allowed_length": 1, "dry_base": 2}
    assert edited([A, B, C], [A, B], **options)[C] == -2
    assert edited([A, B, C], [A, B], dry_range=4, **options)[C] == -1
    assert edited([A, B, C], [A, B], dry_range=2, **options)[C] == 0


def test_a_penalty_is_limited_to_float32():
    """A penalty that overflows becomes the largest float32; a logit that then overflows raises an error."""
    options = {"dry_multiplier": 1e30, "dry_base": 1e38, "dry_allowed_length": 1}
    assert edited([A, A, A], [A], **options)[A] == -np.finfo(np.float32).max
    with pytest.raises(NonFiniteLogitsError, match=r"token id 0 \(stage dry"):
        edited([A, A, A], [A], frequency_penalty=3e38, **options)


def test_power_is_repeated_squaring():
    """`power` is repeated squaring, rounded in a fixed order: b**11 = b * b**2 * b**8."""
    b = 1.1
    b2 = b * b
    b8 = (b2 * b2) * (b2 * b2)
    assert power(b, 11) == (b * b2) * b8
    assert (power(b, 0), power(b, 1), power(10.0, 400)) == (1.0, b, float("inf"))


@pytest.mark.parametrize(
    ("context", "size", "expected"),
    [
        ([A, B, A], None, set()),
        ([A, B, A], 1, {A, B}),
        ([A, B, A], 2, {B}),
        ([A, B, A], 3, set()),
        ([A, B, C, A, B], 3, {C}),
        ([A, A], 2, {A}),
        ([A], 2, set()),
        ([], 1, set()),
    ],
)
def test_ngrams(context, size, expected):
    """Tokens that would complete an n-gram of the context are banned."""
    assert completed_ngrams(context, size) == expected


@pytest.mark.parametrize(
    ("context", "words", "expected"),
    [
        ([], [[A]], {A}),
        ([], [[A, B]], set()),
        ([A], [[A, B]], {B}),
        ([C, A], [[A, B], [C, A, D], [B, E]], {B, D}),
        ([A, B], [[A, B]], set()),  # it is there already; the next token cannot complete it
        ([B], [[A, B, C]], set()),  # longer than the context
    ],
)
def test_bad_words(context, words, expected):
    """The last token of a bad word is banned if the context ends with the tokens before it."""
    assert completed_words(context, words) == expected


def test_ngrams_and_bad_words_are_masks():
    """N-grams and bad words are hard masks over prompt and output; banning all tokens raises an error."""
    inf = float("inf")
    assert edited([A], [B, A], no_repeat_ngram_size=2, bad_words=[[C], [A, E]], logit_bias={B: 9.0}) == [
        0, -inf, -inf, 0, -inf
    ]  # fmt: skip
    with pytest.raises(EmptySupportError, match="hard_masks"):
        edited([A, B, C, D, E], [], no_repeat_ngram_size=1)
