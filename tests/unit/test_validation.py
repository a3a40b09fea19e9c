"""Tests of checks of long lists and texts, which are made in parts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from decoding.engine.request import rng_stream_of
from decoding.errors import ParameterError
from decoding.sampling.token_input import checked_prompt
from decoding.validation import INT32_MAX, PART, checked_token_ids, is_unicode, plain_token_ids, wrong_token_id

POSITIONS = (0, 1, PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 6)
LENGTHS = (0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 7)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("wrong", [-1, 1000, True, 1.0, "1", None, np.bool_(True), INT32_MAX + 1, 10**30])
def test_the_first_wrong_id_is_found(position, wrong):
    """The first element that is not a token id is named by its index, in any part."""
    ids = [index % 1000 for index in range(2 * PART + 7)]
    ids[position:] = [wrong] * (len(ids) - position)
    assert wrong_token_id(ids, 1000) == position
    assert plain_token_ids(ids, 1000) == [index % 1000 for index in range(position)]
    with pytest.raises(ParameterError, match=rf"^name\[{position}\]="):
        checked_token_ids("name", ids, 1000)


@pytest.mark.parametrize("length", LENGTHS)
def test_token_ids_become_plain_ints(length):
    """Ids of any length are returned unchanged, and integers of numpy among them as ints of Python."""
    ids = [index % 1000 for index in range(length)]
    mixed = [np.int16(one) if one % 7 == 0 else one for one in ids]
    for given in (ids, tuple(ids), np.array(ids, np.int64), mixed):
        found = checked_token_ids("name", given, 1000)
        assert found == tuple(ids)
        assert set(map(type, found)) <= {int}
        plain, numbers = checked_prompt("name", given)
        assert plain == tuple(ids)
        assert numbers.dtype == np.int32
        assert numbers.tolist() == ids
    assert wrong_token_id(ids, 1000) is None


@pytest.mark.parametrize("length", LENGTHS)
def test_the_rng_stream_is_the_digest_of_all_ids(length):
    """The digest of ids taken in parts is that of all ids at once."""
    ids = [index % 1000 for index in range(length)]
    digest = hashlib.blake2b(np.array(ids, "<i4").tobytes(), digest_size=8).digest()
    assert rng_stream_of(ids) == int.from_bytes(digest, "little")


@pytest.mark.parametrize("position", POSITIONS)
def test_a_lone_surrogate_is_found(position):
    """A lone surrogate is found at any position; characters beyond the first 65,536 may lie at the parts' ends."""
    text = "é\U0001f600" * (PART + 4)
    assert is_unicode(text)
    assert not is_unicode(text[:position] + "\udc00" + text[position + 1 :])
