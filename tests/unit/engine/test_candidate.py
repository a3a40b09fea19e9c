"""Tests of Candidate: how a text ends, and which part of it is released when."""

import pytest

from decoding.engine.candidate import Candidate
from decoding.engine.logprobs import TokenScore
from decoding.engine.request import make_request
from decoding.engine.transcript import Prefix
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedConfig, byte_tokenizer

EXTRA = [b"\xe2\x80", b"\x99s", b"END", b"ND of", b"xE"]
LEFT_QUOTE, RIGHT_QUOTE, END, ND_OF, X_E = range(256, 261)
EOS, TURN = 261, 262
TOKENIZER = byte_tokenizer(EXTRA, ["<eos>", "<|turn|>"])
SHAPE = ScriptedConfig(vocab_size=263, max_position_embeddings=64, bos_token_id=None, eos_token_ids=(EOS,))
SCORE = TokenScore(-1.0, 1, [])


def candidate(**params):
    """Return a candidate after the prompt "a"."""
    request = make_request("a", SamplingParams(**params), SHAPE, TOKENIZER)
    return Candidate(request, 0, TOKENIZER, Prefix(b"a", [97], []))


def feed(one, *tokens):
    """Append tokens (ids, or text as single bytes) until the candidate ends. Return the text released after each."""
    shown = []
    for token_id in [i for token in tokens for i in (token.encode() if isinstance(token, str) else [token])]:
        if one.is_finished:
            break
        one.append(token_id, SCORE if one.request.params.logprobs is not None else None, -1.0)
        shown.append(one.delta(0).text)
    return shown


def test_an_incomplete_character_is_held():
    """A character is released when it is complete; an incomplete one at the end becomes U+FFFD."""
    one = candidate(max_tokens=3)
    assert feed(one, LEFT_QUOTE, RIGHT_QUOTE, LEFT_QUOTE) == ["", "\u2019s", "\ufffd"]
    assert one.finish_reason == "length"


def test_a_possible_stop_string_is_held():
    """The longest suffix that may begin a stop string is held, and is released once it does not."""
    one = candidate(stop="END")
    assert feed(one, "xE", "Ey") == ["x", "", "E", "Ey"]


def test_a_stop_string_across_tokens_cuts_text_and_tokens():
    """The token in which a stop string begins stays if its first byte is before the cut; later tokens are removed."""
    one = candidate(stop="END", logprobs=0)
    assert feed(one, "a", X_E, ND_OF) == ["a", "x", ""]
    choice = one.finished_choice()
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("ax", "stop", "END")
    assert choice.token_ids == [97, X_E]
    assert choice.logprobs.tokens == ["a", "xE"]
    assert one.num_tokens == 3  # usage counts every sampled token


def test_a_token_that_begins_with_the_stop_string_is_removed():
    """A token whose first byte begins the stop string is removed."""
    one = candidate(stop="END")
    feed(one, "a", END)
    assert one.finished_choice().token_ids == [97]


def test_a_held_token_is_not_streamed_before_it_is_safe():
    """A stream never releases a token that a stop string may still remove."""
    one = candidate(stop="END")
    one.append(ord("E"), None, 0.0)
    assert one.delta(0).token_ids == []
    one.append(ord("x"), None, 0.0)
    assert one.delta(0).token_ids == [ord("E"), ord("x")]


def test_include_stop_str_in_output_keeps_the_stop_string_and_holds_nothing():
    """With include_stop_str_in_output the text ends with the stop string, cut inside its last token."""
    one = candidate(stop="END", include_stop_str_in_output=True)
    assert feed(one, X_E, ND_OF) == ["xE", "ND"]
    assert one.finished_choice().token_ids == [X_E, ND_OF]


def test_eos_ends_without_text():
    """EOS is a token of the choice but not of its text, and it releases the held text."""
    one = candidate(stop="END", logprobs=0)
    assert feed(one, "xE", EOS) == ["x", "", "E"]
    choice = one.finished_choice()
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("xE", "stop", EOS)
    assert choice.token_ids == [120, 69, EOS]
    assert choice.logprobs.tokens == ["x", "E", "<eos>"]


def test_eos_has_no_text_even_when_special_tokens_are_shown():
    """With skip_special_tokens=False, special tokens have text, except the EOS that ends the text."""
    one = candidate(skip_special_tokens=False)
    assert feed(one, EOS) == [""]
    ignored = candidate(skip_special_tokens=False, ignore_eos=True)
    assert feed(ignored, EOS) == ["<eos>"]


def test_ignore_eos_keeps_stop_token_ids():
    """ignore_eos affects EOS only; an EOS that is also a stop id ends the text."""
    one = candidate(ignore_eos=True, stop_token_ids=[98])
    feed(one, EOS, "ab")
    assert (one.finish_reason, one.stop_reason, one.num_tokens) == ("stop", 98, 3)
    both = candidate(ignore_eos=True, stop_token_ids=[EOS])
    feed(both, EOS)
    assert both.stop_reason == EOS


@pytest.mark.parametrize("params", [{"stop": "ab"}, {"stop_token_ids": [98]}])
def test_stop_wins_over_length_on_the_same_token(params):
    """If one token both reaches max_tokens and stops the text, the finish reason is "stop"."""
    one = candidate(max_tokens=2, **params)
    feed(one, "ab")
    assert one.finish_reason == "stop"


def test_stop_strings_before_min_tokens_are_ignored():
    """A stop string completed before token min_tokens stays in the text; one completed by that token ends it."""
    one = candidate(stop="ab", min_tokens=4, max_tokens=9)
    feed(one, "ababab")
    choice = one.finished_choice()
    assert (choice.text, choice.finish_reason, one.num_tokens) == ("ab", "stop", 4)


def test_a_stop_string_never_matches_the_prompt():
    """A stop string does not match across the prompt and the output: "ab" after the prompt "a"."""
    one = candidate(stop="ab")
    assert feed(one, "b") == ["b"]


def test_mean_logprob_counts_the_ending_token():
    """The mean log-probability counts the end token, and exists only if best_of ranks."""
    one = candidate(best_of=2)
    one.append(97, None, -1.0)
    one.append(EOS, None, -2.0)
    assert one.finished_choice().mean_logprob == -1.5
    plain = candidate()
    feed(plain, EOS)
    assert plain.finished_choice().mean_logprob is None


def test_a_failed_candidate_keeps_its_text():
    """An error ends the candidate and releases its held text."""
    one = candidate(stop="END")
    feed(one, "xE")
    error = ValueError("no")
    one.fail(error)
    choice = one.finished_choice()
    assert (choice.text, choice.finish_reason, choice.error) == ("xE", "error", error)


def test_skipped_special_tokens_have_entries_with_their_own_text():
    """A skipped special token has a log-probability entry, at the offset of the next character."""
    one = candidate(ignore_eos=True, logprobs=0, max_tokens=3)
    feed(one, "a", EOS, "b")
    logprobs = one.finished_choice().logprobs
    assert (logprobs.tokens, logprobs.text_offset) == (["a", "<eos>", "b"], [1, 2, 2])


@pytest.mark.parametrize("skips", [True, False])
def test_a_stop_string_that_is_a_special_token(skips):
    """A stop string matches a special token, even if special tokens are skipped in the text."""
    one = candidate(stop="<|turn|>", skip_special_tokens=skips, logprobs=0)
    assert feed(one, "ok", TURN, "more") == ["o", "k", ""]
    choice = one.finished_choice()
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("ok", "stop", "<|turn|>")
    assert choice.token_ids == [111, 107]
    assert choice.logprobs.tokens == ["o", "k"]


@pytest.mark.parametrize("skips", [True, False])
def test_a_stop_string_of_a_special_token_and_text(skips):
    """A stop string that begins with a special token holds the text from it on, and releases it without a match."""
    one = candidate(stop="<|turn|>END", skip_special_tokens=skips)
    shown = "" if skips else "<|turn|>"
    assert feed(one, "x", TURN, "EN", "x", TURN, END) == ["x", "", "", "", f"{shown}ENx", "", ""]
    choice = one.finished_choice()
    assert (choice.text, choice.stop_reason) == (f"x{shown}ENx", "<|turn|>END")
    assert choice.token_ids == [120, TURN, 69, 78, 120]


def test_a_stop_string_that_begins_before_a_special_token():
    """A stop string that begins before a special token cuts its text and removes the token."""
    one = candidate(stop="D<|turn|>")
    assert feed(one, "EN", "D", TURN) == ["E", "N", "", ""]
    choice = one.finished_choice()
    assert (choice.text, choice.token_ids, choice.stop_reason) == ("EN", [69, 78], "D<|turn|>")


def test_a_special_token_is_held_as_long_as_its_text_may_begin_a_stop_string():
    """A special token that may begin a stop string is held, and held tokens are released in order."""
    one = candidate(stop="<|turn|>END", max_tokens=4)
    one.append(TURN, None, 0.0)
    assert one.delta(0).token_ids == []
    one.append(TURN, None, 0.0)
    assert one.delta(0).token_ids == [TURN]
    one.append(120, None, 0.0)
    delta = one.delta(0)
    assert (delta.text, delta.token_ids) == ("x", [TURN, 120])


def test_a_hidden_stop_string_in_the_output():
    """include_stop_str_in_output keeps the matched special token; it has text only if special tokens are shown."""
    one = candidate(stop="<|turn|>", include_stop_str_in_output=True)
    assert feed(one, "ok", TURN) == ["o", "k", ""]
    assert one.finished_choice().token_ids == [111, 107, TURN]
    shown = candidate(stop="<|turn|>", include_stop_str_in_output=True, skip_special_tokens=False)
    assert feed(shown, "ok", TURN) == ["o", "k", "<|turn|>"]


def test_eos_does_not_match_a_stop_string():
    """EOS ends a text before its own text can match a stop string, unless ignore_eos is set."""
    one = candidate(stop="<eos>")
    feed(one, "a", EOS)
    assert one.stop_reason == EOS
    ignored = candidate(stop="<eos>", ignore_eos=True)
    feed(ignored, "a", EOS)
    assert (ignored.stop_reason, ignored.finished_choice().text) == ("<eos>", "a")
