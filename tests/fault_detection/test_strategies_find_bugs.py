"""Hypothesis strategies find planted bugs, and shrink to minimal examples.

Every test plants one bug, lets `find` look for an example that shows it, and asserts how small the example is.
"""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st

from decoding import LogitsError, ParameterError, SamplingParams, reference
from decoding.testing.scripted import byte_tokenizer
from decoding.testing.strategies import (
    INVALID_VALUES,
    chunkings,
    invalid_sampling_params,
    logits_batches,
    logits_rows,
    request_mixes,
    sampling_params,
    sampling_problems,
    stop_sets,
    texts,
    token_ids,
    tokenizations,
    vocab_sizes,
    vocabularies,
)

LOOK = settings(
    max_examples=2000,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def smallest(strategy, shows_bug):
    """Return the example that Hypothesis shrinks to."""
    return find(strategy, shows_bug, settings=LOOK)


@st.composite
def rows(draw, **options):
    """Draw a row of any size."""
    return draw(logits_rows(draw(vocab_sizes()), **options))


def test_ties_are_found():
    """A top_k that keeps all ties of the k-th token is found with two equal logits."""
    row = smallest(rows(), lambda row: (row >= np.sort(row)[-1]).sum() > 1)
    assert len(row) == 2
    assert row[0] == row[1]


def test_bans_are_found():
    """A sampler that starts with the mean of a row is found with one banned token and at most two others."""
    row = smallest(rows(), lambda row: not np.isfinite(row.astype(np.float64).mean()))
    assert len(row) <= 3
    assert np.isneginf(row).sum() == 1


def test_subnormals_are_found():
    """A sampler that flushes subnormals to zero is found with at most three tokens."""

    def flushes(row):
        flushed = np.where(abs(row) < np.finfo(np.float32).smallest_normal, np.float32(0), row)
        return flushed.argmax() != row.argmax()

    row = smallest(rows(), flushes)
    assert len(row) <= 3


def test_huge_spreads_are_found():
    """An overflow of L - max for logits 3.4e38 apart is found with at most 16 tokens."""

    def overflows(row):
        with np.errstate(over="ignore"):
            return bool(np.isneginf(row - row.max()).any()) and bool(np.isfinite(row).all())

    assert len(smallest(rows(), overflows)) <= 16


def test_one_survivor_is_found():
    """Rows with a single token that is not banned are found among rows of more than 30 tokens."""
    row = smallest(rows(), lambda row: len(row) > 30 and (row > -np.inf).sum() == 1)
    assert len(row) == 31
    assert row.max() == 0


def test_peaks_and_flat_rows_are_found():
    """Flat rows and rows with one dominant token are found."""
    flat = smallest(rows(), lambda row: len(row) > 60 and np.ptp(row) == 0)
    assert len(flat) == 63
    assert not flat.any()
    peaked = smallest(rows(), lambda row: len(row) > 60 and np.sort(row)[-2] < row.max() - 20 > -np.inf)
    assert len(peaked) == 63


@pytest.mark.parametrize("bad", [np.isnan, np.isposinf, lambda row: np.isneginf(row).all()])
def test_rows_to_refuse_are_found(bad):
    """Missing validation of NaN, +inf or a row of -inf is found with a row of one token."""
    assert len(smallest(rows(nonfinite=True), lambda row: bad(row).any())) == 1


def test_rows_of_a_batch_that_leak_are_found():
    """A row of a batch that gets another row's maximum is found with one number that is not 0."""
    batch = smallest(logits_batches(2, 2), lambda batch: batch[0].max() != batch[1].max())
    assert np.count_nonzero(np.isfinite(batch) & (batch != 0)) + np.isneginf(batch).sum() <= 2


def test_a_prompt_that_is_counted_is_found():
    """A frequency penalty over the prompt is found with one prompt token and no other parameter."""

    def differs(example):
        params, prompt = example
        if not params.frequency_penalty:
            return False
        logits = np.zeros(3, np.float32)
        try:
            right, wrong = (
                reference.sample_row(reference.Row(logits=logits, params=params, seed=0, **{where: prompt}))
                for where in ("prompt_token_ids", "output_token_ids")
            )
        except LogitsError:
            return False
        return not np.allclose(right.probabilities, wrong.probabilities)

    params, prompt = smallest(st.tuples(sampling_params(3), token_ids(3)), differs)
    assert prompt == [0]
    changed = {name for name in SamplingParams.__slots__ if getattr(params, name) != getattr(SamplingParams(), name)}
    assert changed == {"seed", "max_tokens", "frequency_penalty"}


def test_a_boundary_is_found():
    """A top_p that drops the crossing token is found with one row of at most three tokens."""

    def differs(problem):
        state = problem.states[0]
        p = float(np.float32(state.params.top_p))
        if not 0 < p < 1 or state.params.temperature == 0:
            return False
        try:
            (kept,) = problem.sampler.probabilities(problem.logits[:1], [state])
        except LogitsError:
            return False
        return np.count_nonzero(kept) > 1

    problem = smallest(sampling_problems(max_rows=1), differs)
    assert problem.logits.shape[1] <= 3
    assert problem.states[0].prompt_token_ids == ()


def test_a_missing_check_is_found():
    """A missing rule of a parameter is found with this parameter alone, and the reason states the rule."""
    for name in ("top_p", "stop", "seed"):
        invalid = smallest(invalid_sampling_params(), lambda invalid, name=name: name in invalid.arguments)
        assert list(invalid.arguments) == list(invalid.reasons) == [name]
        assert invalid.arguments[name] in INVALID_VALUES[name] or invalid.arguments[name] is np.nan
        assert invalid.reasons[name].startswith(f"{name} must be ")
        with pytest.raises(ParameterError):
            SamplingParams(**invalid.arguments)


def test_characters_split_by_tokens_are_found():
    """Decoding token by token is found with one character whose bytes are in two tokens."""

    @st.composite
    def spellings(draw):
        text, vocabulary = draw(texts()), draw(vocabularies())
        return text, vocabulary, draw(tokenizations(text.encode(), vocabulary))

    def breaks(example):
        text, vocabulary, ids = example
        tokens = [bytes([i]) if i < 256 else vocabulary[i - 256] for i in ids]
        assert b"".join(tokens) == text.encode()
        return "".join(token.decode(errors="replace") for token in tokens) != text

    text, vocabulary, ids = smallest(spellings(), breaks)
    assert len(text) == 1
    assert vocabulary == []
    assert len(ids) == len(text.encode()) == 2


def test_tokens_that_end_inside_a_character_are_found():
    """A vocabulary with a token that is not UTF-8 by itself is found, and a tokenizer accepts it."""
    odd = smallest(vocabularies(), lambda tokens: any(t.decode(errors="ignore").encode() != t for t in tokens))
    assert len(odd) == 1
    assert byte_tokenizer(odd).token_bytes(256, True) == odd[0]


@st.composite
def cut_texts(draw):
    """Draw a text, stop strings of which many occur in it, and the text in pieces."""
    text = draw(texts(max_size=10))
    return text, draw(stop_sets(text)), draw(chunkings(text))


def test_stop_strings_across_pieces_are_found():
    """Looking for a stop string in each piece alone is found with one stop string cut into two pieces."""

    def misses(example):
        text, stops, pieces = example
        assert "".join(pieces) == text
        return any(stop in text for stop in stops) and not any(stop in piece for stop in stops for piece in pieces)

    text, stops, pieces = smallest(cut_texts(), misses)
    assert text in ("aa", "aaa")
    assert stops == [text]
    assert len([piece for piece in pieces if piece]) == 2


def test_overlapping_stop_strings_are_found():
    """Using the first stop string of the list instead of the first in the text is found with two stop strings."""

    def differs(example):
        text, stops, _ = example
        found = [stop for stop in stops if stop in text]
        ends = [text.find(stop) + len(stop) for stop in found]
        return bool(found) and ends[0] != min(ends)

    text, stops, _ = smallest(cut_texts(), differs)
    assert len(text) <= 3
    assert len(stops) == 2


def test_a_stop_string_after_a_partial_match_is_found():
    """A restart at zero after a mismatch, which misses `aab` in `aaab`, is found with a stop string of 3 letters."""

    def naive(text, stop):
        place = 0
        for letter in text:
            place = place + 1 if letter == stop[place] else int(letter == stop[0])
            if place == len(stop):
                return True
        return False

    text, stops, _ = smallest(cut_texts(), lambda e: any((stop in e[0]) != naive(e[0], stop) for stop in e[1]))
    assert len(stops) == 1
    assert len(stops[0]) == 3
    assert len(text) <= 6


def run(mix, *, bug=None):
    """Return the number of slots in use at the end of a toy scheduler with two slots."""
    used, waiting, step = 0, [], 0
    for arrival in mix:
        step = max(step, arrival.step)
        waiting.append(arrival)
        started, waiting = waiting[: 2 - used], waiting[2 - used :]
        for one in started:
            used += 1
            if bug == "abort" and one.abort_after == 0:
                continue
            if bug == "nothing" and one.params.max_tokens == 0:
                continue
            used -= 1
    return used


@pytest.mark.parametrize("bug", ["abort", "nothing"])
def test_requests_that_leak_are_found(bug):
    """A slot that leaks after an immediate abort, or with max_tokens=0, is found with one such request."""
    (arrival,) = smallest(request_mixes(10, max_requests=2), lambda mix: run(mix, bug=bug) > 0)
    assert arrival.step == 0
    assert arrival.prompt_token_ids == [0]
    assert arrival.params.n == 1
    assert arrival.params.stop == ()
    assert arrival.abort_after == (0 if bug == "abort" else None)


def test_concurrent_requests_are_found():
    """A bug that needs two requests in the same step with different temperatures is found with two requests."""

    def shows(mix):
        return any(
            a.step == b.step and a.params.temperature != b.params.temperature for a, b in itertools.pairwise(mix)
        )

    mix = smallest(request_mixes(10, max_requests=3), shows)
    assert len(mix) == 2
    assert smallest(request_mixes(10, max_requests=2), lambda mix: mix[-1].step > 2)[-1].step == 3
