"""Coupled verification equals plain decoding, bit for bit, for any draft."""

import pickle

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from decoding import Sampler
from decoding.errors import LogitsError
from decoding.sampling.output import TOKEN_ID
from decoding.sampling.stages import PROFILES
from decoding.testing import logits_batches, sampling_states, vocab_sizes


def plain_decoding(sampler, logits, state):
    """Return the results of sampling the rows one after another: words of decoding_result, [rows, words]."""
    try:
        return np.concatenate([sampler.sample(row, [state]).words for row in logits])
    except LogitsError:
        assume(False)


@given(st.data())
def test_verification_is_plain_decoding(data):
    """Verification gives the tokens, bits and state of plain decoding, with every parameter under every profile.

    The draft is the result of plain decoding with up to two changed tokens.
    """
    vocab_size = data.draw(vocab_sizes())
    sampler = Sampler(vocab_size, profile=data.draw(st.sampled_from(tuple(PROFILES))))
    logits = data.draw(logits_batches(vocab_size, data.draw(st.integers(1, 5))))
    state = data.draw(sampling_states(vocab_size))
    plain = pickle.loads(pickle.dumps(state))
    words = plain_decoding(sampler, logits, plain)
    drawn = words[:, TOKEN_ID].tolist()
    draft = drawn[: len(logits) - data.draw(st.integers(0, 1))]
    for place in data.draw(st.lists(st.integers(0, len(draft) - 1), max_size=2)) if draft else ():
        draft[place] = data.draw(st.integers(0, vocab_size - 1))
    num_accepted = next((row for row, token_id in enumerate(draft) if token_id != drawn[row]), len(draft))
    num_drawn = min(num_accepted + 1, len(logits))
    verification = sampler.verify(logits, state, draft)
    assert verification.num_accepted == num_accepted
    assert verification.token_ids == drawn[:num_drawn]
    assert verification.output.words.tobytes() == words[:num_drawn].tobytes()
    plain.truncate(state.position)
    assert pickle.dumps(state) == pickle.dumps(plain)
