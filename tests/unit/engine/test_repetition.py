"""Loop detection: what counts as a repetition, and how it ends a text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decoding import LLM, ParameterError, SamplingParams
from decoding.engine.repetition import RepetitionDetector
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, fixed_reply, hashed_logits

TOKENIZER = byte_tokenizer([], ["<eos>"])
EOS = 256


def is_repetition(tokens, largest, smallest, count):
    """The definition: for some size, the last size * count tokens are `count` equal pieces."""
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
def test_the_detector_is_the_definition(tokens, sizes, count, kept):
    """After every token, and after some were taken back."""
    detector = RepetitionDetector(*sizes, count)
    for end, token_id in enumerate(tokens, 1):
        assert detector.append(token_id) == is_repetition(tokens[:end], *sizes, count)
    kept = min(kept, len(tokens))
    detector.take_back(kept)
    for end, token_id in enumerate(tokens[::-1], 1):
        assert detector.append(token_id) == is_repetition([*tokens[:kept], *tokens[::-1][:end]], *sizes, count)


def make_llm(reply, **settings):
    """A model that says one thing again and again."""
    model = ScriptedModel(fixed_reply(list(reply), 1), 257, eos_token_ids=(EOS,))
    return LLM.from_parts(model, TOKENIZER, **settings)


LOOP = {"max_pattern_size": 4, "min_pattern_size": 2, "min_count": 3}


@pytest.mark.parametrize("speculation", [None, "prompt_lookup"])
def test_a_loop_ends_the_text(speculation):
    """With the token that completes the repetition, which stays in the text; the reasons say so."""
    params = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=50, logprobs=0)
    choice = make_llm(b"abc", speculation=speculation).complete("x", params).choices[0]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("abcabcabc", "stop", "repetition_detected")


def test_sizes_count_and_minimum():
    """A pattern below the smallest size repeats as a longer one; min_tokens puts the end off."""
    params = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=50)
    assert make_llm(b"a").complete("x", params).choices[0].text == "aaaaaa"
    late = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=50, min_tokens=11)
    assert make_llm(b"abc").complete("x", late).choices[0].text == "abcabcabcab"
    long = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=20)
    assert make_llm(b"abcde").complete("x", long).choices[0].finish_reason == "length"
    exact = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=9)
    assert make_llm(b"abc").complete("x", exact).choices[0].finish_reason == "stop"


def test_other_ends_come_first():
    """A stop string and EOS by the same token give their own reasons; the prompt does not count."""
    params = SamplingParams(repetition_detection=LOOP, temperature=0, max_tokens=50, stop="cabcabc")
    assert make_llm(b"abc").complete("x", params).choices[0].stop_reason == "cabcabc"
    model = ScriptedModel(fixed_reply(b"ab", 7), 257)
    text = LLM.from_parts(model, TOKENIZER).complete(
        "xababab", SamplingParams(repetition_detection=LOOP, temperature=0)
    )
    assert text.choices[0].text == "ababab"


def test_with_banned_strings_streams_and_replays(tmp_path):
    """Taken back tokens do not count; a stream has the same end, and so has a replay."""
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
    """All three numbers have ranges; unknown names are errors."""
    for wrong in ({"max_pattern_size": 3}, {"max_pattern_size": 3, "min_count": 1}, {**LOOP, "min_pattern_size": 5}):
        with pytest.raises(ParameterError, match=r"repetition_detection=.*must be an object with max_pattern_size"):
            SamplingParams(repetition_detection=wrong)
    assert SamplingParams(repetition_detection=LOOP).repetition_detection == (4, 2, 3)
