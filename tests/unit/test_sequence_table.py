"""Tests of SequenceTable: it behaves as a tuple of tuples of token ids."""

import copy
import pickle

import numpy as np

from decoding.params import SamplingParams, with_seed
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState
from decoding.sequence_table import SequenceTable

TABLE = SequenceTable([(4, 5), (6,)], [1, 2])


def test_a_table_is_a_sequence_of_tuples():
    """Length, iteration, indexing and slices are those of the tuple, with single ids first."""
    expected = ((1,), (2,), (4, 5), (6,))
    assert tuple(TABLE) == expected
    assert (len(TABLE), TABLE[2], TABLE[-1], TABLE[1:3], (4, 5) in TABLE) == (4, (4, 5), (6,), expected[1:3], True)
    assert repr(TABLE) == repr(expected)
    assert (TABLE.max_id, SequenceTable([]).max_id, len(SequenceTable([]))) == (6, -1, 0)


def test_equal_tables_hash_equally():
    """Equal tables hash alike, also after copying and pickling; another partition of the ids is not equal."""
    for other in (SequenceTable([(1,), (2,), (4, 5), (6,)]), copy.copy(TABLE), pickle.loads(pickle.dumps(TABLE))):
        assert (other, hash(other)) == (TABLE, hash(TABLE))
    assert SequenceTable([(1, 2), (4, 5), (6,)]) != TABLE


def test_parameters_with_a_table_draw_as_with_tuples():
    """A SequenceTable bans the same tokens as a tuple of tuples."""
    logits = np.zeros((1, 10), np.float32)
    drawn = []
    for words in (TABLE, tuple(TABLE)):
        params = SamplingParams(bad_words=words, dry_multiplier=2.0, dry_sequence_breakers=words, seed=1)
        state = SamplingState(params, [4])
        drawn.append(Sampler(10).probabilities(logits, [state]).tolist())
    assert drawn[0] == drawn[1]
    assert [token_id for token_id, share in enumerate(drawn[0][0]) if share == 0] == [1, 2, 5, 6]


def test_with_seed_changes_the_seed_only():
    """`with_seed` changes the seed only; the other parameters stay the same objects."""
    params = SamplingParams(bad_words=TABLE, logit_bias={1: 2.0}, temperature=0.5)
    seeded = with_seed(params, 7)
    assert (seeded.seed, params.seed) == (7, None)
    assert seeded.bad_words is params.bad_words
    assert with_seed(seeded, None) == params
