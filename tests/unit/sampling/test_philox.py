"""Philox4x64-10 in Python and in C, against published vectors and against numpy's generator."""

import csv
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.reference import philox4x64, random_words
from decoding.sampling import kernel

WORD = st.integers(0, 2**64 - 1)
COUNTER, KEY = st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD)
BOTH = pytest.mark.parametrize("philox", [philox4x64, kernel.philox], ids=["reference", "kernel"])


def numpy_philox(counter, key):
    """Return numpy's block for this counter. Numpy increments the counter first, so start one earlier."""
    before = (sum(word << 64 * i for i, word in enumerate(counter)) - 1) % 2**256
    words = [before >> 64 * i & 2**64 - 1 for i in range(4)]
    generator = np.random.Philox(counter=np.array(words, np.uint64), key=np.array(key, np.uint64))
    return tuple(int(word) for word in generator.random_raw(4))


@BOTH
def test_known_answers_of_random123(philox, shared):
    """The three published 10-round vectors of the Philox authors are reproduced."""
    text = (shared / "vectors" / "random123_kat_vectors.txt").read_text()
    lines = re.findall(r"^philox4x64\s+10\s+(.*)$", text, flags=re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        words = [int(word, 16) for word in line.split()]
        assert philox(tuple(words[:4]), tuple(words[4:6])) == tuple(words[6:])


@BOTH
@pytest.mark.parametrize("number", [1, 2])
def test_numpys_published_stream(philox, number, shared):
    """All 1,000 values that numpy publishes for a seed are reproduced: block i is counter i + 1."""
    with (shared / "vectors" / "numpy_random" / f"philox-testset-{number}.csv").open() as file:
        (_, seed), *rows = csv.reader(file)
    key = np.random.SeedSequence(int(seed, 16)).generate_state(2, np.uint64).tolist()
    stream = [word for block in range(250) for word in philox((block + 1, 0, 0, 0), key)]
    assert stream == [int(word, 16) for _, word in rows]


@BOTH
@given(counter=COUNTER, key=KEY)
def test_numpys_generator(philox, counter, key):
    """Any counter and key give the same block as numpy's generator."""
    assert philox(counter, key) == numpy_philox(counter, key)


def test_a_negative_seed_is_its_twos_complement():
    """A negative seed becomes its two's complement in the key."""
    assert random_words(-1, 0, 5, 6) == philox4x64((5, 6, 0, 0), (2**64 - 1, 0))
    assert random_words(-(2**63), 9, 0, 0, 2) == philox4x64((0, 0, 0, 2), (2**63, 9))
