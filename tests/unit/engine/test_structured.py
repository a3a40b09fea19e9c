"""Structured output: masks follow the grammar, and every finished text is a sentence of it."""

import json
import re

import numpy as np
import pytest

from decoding import LLM, ParameterError, SamplingParams
from decoding.engine.grammar import Grammar, num_words
from decoding.errors import EmptySupportError
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

pytest.importorskip("llguidance")

WORDS = [b"ab", b"abc", b'{"', b'": ', b"12", b"true", "é".encode(), b"\xc3"[:1] + b"\xa9!"]
TOKENIZER = byte_tokenizer(WORDS, ["<bos>", "<eos>"])
VOCAB = TOKENIZER.vocab_size + 3
EOS = TOKENIZER.eos_token_id
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "é"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
KINDS = {
    "regex": ({"regex": "(ab|abc|b{2,3})(12)?"}, lambda text: re.fullmatch("(ab|abc|b{2,3})(12)?", text)),
    "choice": ({"choice": ["ab", "abc", "é!"]}, lambda text: text in ("ab", "abc", "é!")),
    "json": ({"json": SCHEMA}, lambda text: set(json.loads(text)) == {"a", "b"}),
    "grammar": ({"grammar": 'start: "ab" tail\ntail: "12" | "c" tail'}, lambda text: re.fullmatch("abc*12", text)),
}


def make_llm(seed=1, **settings):
    """Return an LLM over all bytes and a few longer tokens, with hashed logits."""
    model = ScriptedModel(hashed_logits(seed), VOCAB, eos_token_ids=(EOS,), max_position_embeddings=400)
    return LLM.from_parts(model, TOKENIZER, **settings)


def allowed(grammar, text_tokens):
    """Return the token ids that a grammar allows after these tokens."""
    matcher, words = grammar.matcher(), np.zeros(num_words(VOCAB), np.uint32)
    for token_id in text_tokens:
        matcher.append(token_id)
    matcher.fill(words, [EOS])
    return set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist())


@pytest.mark.parametrize("language", [("ab", "abc", "b12", "é!", "é"), ("12", "1", "121212", '{"": ')])
def test_masks_are_those_of_a_finite_language(language):
    """After every prefix exactly the tokens that lead to a choice are allowed, and EOS after a complete one."""
    grammar = Grammar("choice", language, VOCAB, TOKENIZER)
    words = [word.encode() for word in language]
    beginnings = {(): b""}
    while beginnings:
        (tokens, data), *_ = beginnings.items()
        del beginnings[tokens]
        follow = {
            token_id: data + TOKENIZER.token_bytes(token_id)
            for token_id in range(TOKENIZER.vocab_size)
            if TOKENIZER.token_bytes(token_id)
        }
        right = {token_id for token_id, text in follow.items() if any(word.startswith(text) for word in words)}
        assert allowed(grammar, tokens) == right | ({EOS} if data in words else set())
        beginnings.update({(*tokens, token_id): follow[token_id] for token_id in right})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_text_is_a_sentence(kind, temperature):
    """Every choice that max_tokens does not cut is a sentence, with n, best_of, log-probabilities and echo."""
    structured, is_sentence = KINDS[kind]
    params = SamplingParams(
        structured=structured, n=2, best_of=4, max_tokens=150, seed=3, temperature=temperature, logprobs=1, echo=True
    )
    result = make_llm().complete("q: ", params)
    for choice in result.choices:
        if choice.finish_reason == "stop":
            assert is_sentence(choice.text.removeprefix("q: ")), choice.text
        else:
            assert choice.finish_reason == "length"
    if kind != "json":
        assert {choice.finish_reason for choice in result.choices} == {"stop"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_cut_by_max_tokens_has_reason_length(kind):
    """A text that max_tokens cuts before the end of a sentence has the finish reason "length"."""
    choice = make_llm().complete("q", SamplingParams(structured=KINDS[kind][0], max_tokens=1, seed=1)).choices[0]
    assert choice.finish_reason == "length" or KINDS[kind][1](choice.text)


@pytest.mark.parametrize("speculation", ["prompt_lookup", "model"])
@pytest.mark.parametrize("kind", KINDS)
def test_speculation_changes_nothing(kind, speculation):
    """Speculation gives the result of plain decoding: draft tokens are checked under the masks."""
    draft = make_llm(seed=2) if speculation == "model" else speculation
    params = SamplingParams(structured=KINDS[kind][0], n=3, max_tokens=60, seed=5, logprobs=2, logprobs_mode="final")
    plain, fast = make_llm(), make_llm(speculation=draft)
    assert fast.complete("ab12ab12", params) == plain.complete("ab12ab12", params)


def test_a_sentence_that_nothing_can_follow_ends_without_an_end_token():
    """A sentence that cannot continue ends without EOS; one that can continue ends with EOS."""
    done = make_llm().complete("q", SamplingParams(structured={"choice": ["b12"]}, seed=1)).choices[0]
    assert (done.text, done.finish_reason, done.stop_reason) == ("b12", "stop", None)
    assert EOS not in done.token_ids
    texts = SamplingParams(structured={"regex": "a+"}, n=20, max_tokens=200, seed=1, logit_bias={EOS: 4.0})
    for choice in make_llm().complete("q", texts).choices:
        assert set(choice.text) == {"a"}
        assert (choice.stop_reason, choice.token_ids[-1]) == (EOS, EOS)


def test_a_stop_token_is_an_end_token():
    """A stop id is drawn only at the end of a sentence, whatever text its token has."""
    a = ord("a")
    params = SamplingParams(structured={"regex": "(b|a)b+"}, stop_token_ids=[a], max_tokens=300, n=20, seed=2)
    for choice in make_llm().complete("q", params).choices:
        assert re.fullmatch("[ab]b+", choice.text)
        assert a not in choice.token_ids[:-1]
        assert choice.stop_reason in (a, EOS)


def test_min_tokens_beyond_the_end_of_the_grammar_is_an_error():
    """If min_tokens exceeds the longest sentence, an EmptySupportError is raised."""
    params = SamplingParams(structured={"choice": ["ab"]}, min_tokens=5, max_tokens=8, seed=1)
    with pytest.raises(EmptySupportError, match="hard_masks"):
        make_llm().complete("q", params)


def test_a_stop_string_cuts_the_sentence():
    """A stop string cuts the sentence and is reported as the stop reason."""
    params = SamplingParams(structured={"choice": ["ab12"]}, stop="1", seed=1)
    choice = make_llm().complete("q", params).choices[0]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("ab", "stop", "1")


def test_processors_and_bans_work_beside_the_grammar():
    """Banned tokens and logits processors have their effect together with a grammar."""
    params = SamplingParams(structured={"regex": "[ab]{4}"}, banned_token_ids=[ord("a"), 256, 257], seed=1)
    assert make_llm().complete("q", params).choices[0].text == "bbbb"

    def rather_a(token_ids, logits):
        logits[ord("a")] += 100.0

    params = SamplingParams(structured={"regex": "[ab]{4}"}, seed=1)
    assert make_llm().complete("q", params, processors=[rather_a]).choices[0].text == "aaaa"


@pytest.mark.parametrize("force", [False, True])
def test_replay(tmp_path, force):
    """A capsule contains the grammar, and its replay gives the same bits, sampled or forced."""
    llm = make_llm()
    params = SamplingParams(structured=KINDS["json"][0], n=2, max_tokens=40, logprobs=1, seed=4)
    llm.capsule(llm.complete("q", params)).save(tmp_path / "capsule.json")
    assert llm.replay(tmp_path / "capsule.json", force=force).is_same


def test_choices_of_all_characters():
    """Choices with quotes, backslashes, control characters or characters beyond the BMP are accepted."""
    choices = ['a"b', "a\\b", "\n\t\0\x7f", "\U0001f600\u2028", "/(x|y)*/", "<eos>", "%json {}", "\u00e9"]
    grammar = Grammar("choice", tuple(choices), VOCAB, TOKENIZER)
    for choice in choices:
        matcher = grammar.matcher()
        for byte in choice.encode():
            matcher.append(byte)
        assert matcher.may_end


def test_streams_add_up():
    """The pieces of a stream join to the text of the completion."""
    params = SamplingParams(structured=KINDS["grammar"][0], max_tokens=50, seed=6)
    llm = make_llm()
    assert "".join(delta.text for delta in llm.stream("q", params)) == llm.complete("q", params).choices[0].text


@pytest.mark.parametrize(
    ("structured", "message"),
    [
        ({"regex": "("}, "invalid regex"),
        ({"regex": "()"}, "no token of this model can begin"),
        ({"regex": "(?=a)b"}, "invalid regex"),
        ({"grammar": "start: missing"}, "unknown name"),
        ({"grammar": "root ::= 'a'"}, "lexer error"),
        ({"json": {"type": "foo"}}, "Invalid type"),
        ({"json": {"$ref": "#/$defs/x"}}, "does not exist"),
        ({"json": {"$ref": "http://localhost/x"}}, "not present"),
        ({"json": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, "oneOf"),
        ({"json": {"minItems": 3, "maxItems": 1, "type": "array"}}, "Unsatisfiable"),
    ],
)
def test_a_bad_grammar_is_an_error_of_its_own_request(structured, message):
    """A grammar that does not compile raises a ParameterError for "structured"; later requests succeed."""
    llm = make_llm()
    with pytest.raises(ParameterError, match=message) as caught:
        llm.complete("q", SamplingParams(structured=structured))
    assert caught.value.problems[0].parameter == "structured"
    assert llm.complete("q", SamplingParams(max_tokens=1, seed=1)).choices[0].finish_reason == "length"


def test_a_grammar_that_takes_too_much_work_later_fails_its_own_choice():
    """A grammar that exceeds the work limit while decoding fails its own choice only."""
    llm = make_llm()
    slow = SamplingParams(
        structured={"grammar": 'start: e\ne: e e | "x" | "x" e | e "x"'}, max_tokens=150, ignore_eos=True, seed=1
    )
    plain = SamplingParams(max_tokens=30, seed=1)
    results = llm.complete(["q", "r"], [slow, plain], on_error="status")
    assert results[1] == llm.complete("r", plain)
    failed = results[0].choices[0]
    assert isinstance(failed.error, ParameterError)
    assert set(failed.text) == {"x"}


@pytest.mark.parametrize("values", [[[index] for index in range(40_000)], [0] * 131_072])
def test_a_schema_of_too_many_values_is_refused(values):
    """A schema whose text must be too long is refused like one whose text is."""
    for schema in ({"const": values}, {"enum": ["a" * 65_536]}):
        with pytest.raises(ParameterError, match="must have at most 65,536 bytes as json"):
            SamplingParams(structured={"json": schema})


def test_text_needs_a_tokenizer():
    """Structured output without a tokenizer raises an error that names the parameter."""
    llm = LLM.from_parts(ScriptedModel(hashed_logits(1), VOCAB))
    with pytest.raises(Exception, match=r"structured=.*tokenizer"):
        llm.complete([1, 2], SamplingParams(structured={"regex": "a"}))


def test_real_tokenizers_spell_a_schema(shared):
    """A SentencePiece model writes JSON of the schema; at the very start of a text it is refused."""
    llm = LLM(shared / "models" / "stories260K")
    params = SamplingParams(structured={"json": SCHEMA}, max_tokens=80, n=3, seed=1, temperature=0.7)
    for choice in llm.complete("Once upon a time", params).choices:
        assert choice.finish_reason == "length" or set(json.loads(choice.text)) == {"a", "b"}
    with pytest.raises(ParameterError, match="start of a text"):
        llm.complete("", params)
