"""Repetition detection: the definition of a repetition, and the end of a text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decoding import LLM, ParameterError, SamplingParams
from decoding.engine.repetition import RepetitionDetector
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, fixed_reply, hashed_logits

TOKENIZER = byte_tokenizer([], ["<eos>"])
EOS = 256


def is_repetition(tokens, largest, smallest, count):
    """Return True if, for some size, the last size * count tokens are `count` equal pieces."""
    return any(
        len(tokens) >= size * count and tokens[-size * count :] == tokens[-size:] * count
        for size in range(smallest, largest + 1)
    )


@given(
    st.lists(st.integers(0, 2), max_size=80),
    st.integers(1, 6).flatmap(lambda largest: st.tuples(st.just(largest), st.integers(1, largest))),
    st.integers(2, 4),
    st.integers(0, 80),
)
@example([1] * 70, (1, 1), 70, 65)
def test_the_detector_agrees_with_the_definition(tokens, sizes, count, kept):
    """The detector agrees with the definition after every token, also after tokens were taken back."""
    detector = RepetitionDetector(*sizes, count)
    for end, token_id in enumerate(tokens, 1):
        assert detector.append(token_id) == is_repetition(tokens[:end], *sizes, count)
    kept = min(kept, len(tokens))
    detector.take_back(kept)
    for end, token_id in enumerate(tokens[::-1], 1):
        assert detector.append(token_id) == is_repetition([*tokens[:kept], *tokens[::-1][:end]], *sizes, count)


def make_llm(reply, **settings):
    """Return an LLM that repeats one reply endlessly."""
    model = ScriptedModel(fixed_reply(list(reply), 1), 257, eos_token_ids=(EOS,))
    return LLM.from_parts(model, TOKENIZER, **settings)


LOOP = {"max_pattern_size": 4, "min_pattern_size": 2, "min_count": 3}


@pytest.mark.parametrize("speculation", [None, "prompt_lookup"])
def test_a_loop_ends_the_text(speculation):
    """A repetition ends the text; its last token stays, and the stop reason is "repetition_detected"."""
    params = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=50, logprobs=0)
    choice = make_llm(b"abc", speculation=speculation).complete("x", params).choices[0]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("abcabcabc", "stop", "repetition_detected")


def test_pattern_sizes_count_and_min_tokens():
    """A pattern shorter than min_pattern_size counts as a longer one; min_tokens delays the end."""
    params = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=50)
    assert make_llm(b"a").complete("x", params).choices[0].text == "aaaaaa"
    late = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=50, min_tokens=11)
    assert make_llm(b"abc").complete("x", late).choices[0].text == "abcabcabcab"
    long = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=20)
    assert make_llm(b"abcde").complete("x", long).choices[0].finish_reason == "length"
    exact = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=9)
    assert make_llm(b"abc").complete("x", exact).choices[0].finish_reason == "stop"


def test_a_stop_string_precedes_a_repetition():
    """A stop string completed by the same token gives the stop reason, and the prompt is not counted."""
    params = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=50, stop="cabcabc")
    assert make_llm(b"abc").complete("x", params).choices[0].stop_reason == "cabcabc"
    model = ScriptedModel(fixed_reply(b"ab", 7), 257)
    text = LLM.from_parts(model, TOKENIZER).complete(
        "xababab", SamplingParams(repetition_detection=LOOP, temperature=0)
    )
    assert text.choices[0].text == "ababab"


def test_with_banned_strings_streams_and_replays(tmp_path):
    """Tokens taken back by banned strings do not count; streams and replays end alike."""
    model = ScriptedModel(hashed_logits(1), 257, eos_token_ids=(EOS,))
    llm = LLM.from_parts(model, TOKENIZER)
    loop = {"max_pattern_size": 2, "min_count": 2}
    params = SamplingParams(
        repetition_detection=loop,
        banned_strings=["aa", "bc"],
        allowed_token_ids=[97, 98, 99],
        n=8,
        max_tokens=60,
        seed=1,
    )
    result = llm.complete("x", params)
    for choice in result.choices:
        tokens = choice.token_ids
        ends = [end for end in range(1, len(tokens) + 1) if is_repetition(tokens[:end], 2, 1, 2)]
        assert ends == [len(tokens)]
        assert "aa" not in choice.text
    last = [delta for delta in llm.stream("x", params) if delta.finish_reason]
    assert {delta.stop_reason for delta in last} == {"repetition_detected"}
    llm.capsule(result).save(tmp_path / "capsule.json")
    assert llm.replay(tmp_path / "capsule.json").is_same
    assert llm.replay(tmp_path / "capsule.json", force=True).is_same


def test_bad_values_are_refused():
    """Missing or out-of-range values of repetition_detection raise a ParameterError."""
    for wrong in ({"max_pattern_size": 3}, {"max_pattern_size": 3, "min_count": 1}, {**LOOP, "min_pattern_size": 5}):
        with pytest.raises(ParameterError, match=r"repetition_detection=.*must be an object with max_pattern_size"):
            SamplingParams(repetition_detection=wrong)
    assert SamplingParams(repetition_detection=LOOP).repetition_detection == (4, 2, 3)
