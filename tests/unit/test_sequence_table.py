"""SequenceTable: sequences of token ids behave as a tuple of tuples does."""

import copy
import pickle

import numpy as np

from decoding.params import SamplingParams, with_seed
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState
from decoding.sequence_table import SequenceTable

TABLE = SequenceTable([(4, 5), (6,)], [1, 2])


def test_a_table_is_a_sequence_of_tuples():
    """Single ids come first; length, iteration, indexing and slices are those of the tuple."""
    expected = ((1,), (2,), (4, 5), (6,))
    assert tuple(TABLE) == expected
    assert (len(TABLE), TABLE[2], TABLE[-1], TABLE[1:3], (4, 5) in TABLE) == (4, (4, 5), (6,), expected[1:3], True)
    assert repr(TABLE) == repr(expected)
    assert (TABLE.max_id, SequenceTable([]).max_id, len(SequenceTable([]))) == (6, -1, 0)


def test_equal_tables_are_equal_and_hash_alike():
    """Also after copying and pickling; the same ids cut otherwise are another table."""
    for other in (SequenceTable([(1,), (2,), (4, 5), (6,)]), copy.copy(TABLE), pickle.loads(pickle.dumps(TABLE))):
        assert (other, hash(other)) == (TABLE, hash(TABLE))
    assert SequenceTable([(1, 2), (4, 5), (6,)]) != TABLE


def test_parameters_with_a_table_draw_as_with_tuples():
    """The kernel reads the table's arrays and bans the same tokens."""
    logits = np.zeros((1, 10), np.float32)
    drawn = []
    for words in (TABLE, tuple(TABLE)):
        params = SamplingParams(bad_words=words, dry_multiplier=2.0, dry_sequence_breakers=words, seed=1)
        state = SamplingState(params, [4])
        drawn.append(Sampler(10).probabilities(logits, [state]).tolist())
    assert drawn[0] == drawn[1]
    assert [token_id for token_id, share in enumerate(drawn[0][0]) if share == 0] == [1, 2, 5, 6]


def test_a_seed_is_the_only_difference():
    """`with_seed` leaves every other parameter as it was, the very same objects."""
    params = SamplingParams(bad_words=TABLE, logit_bias={1: 2.0}, temperature=0.5)
    seeded = with_seed(params, 7)
    assert (seeded.seed, params.seed) == (7, None)
    assert seeded.bad_words is params.bad_words
    assert with_seed(seeded, None) == params
