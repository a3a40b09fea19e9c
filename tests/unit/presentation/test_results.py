"""Results in a notebook: the text is the result's, colours are those of its probabilities, and the size is bounded."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import BeamSearchParams, SamplingParams
from decoding.engine import outputs_html
from decoding.engine.outputs import Choice, Logprobs, Score
from decoding.engine.text_spans import TextSpans, probability_of, spans_of
from decoding.llm import LLM
from decoding.presentation.scale import level_of
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

SPECIAL = ["<eos>", "<mark>"]
MAX_BYTES = 1_500_000


@pytest.fixture(scope="module")
def llm():
    """Every byte is a token, so most characters beyond ASCII are several tokens; two special tokens."""
    model = ScriptedModel(hashed_logits(scale=3.0), 258, eos_token_ids=(256,))
    return LLM.from_parts(model, byte_tokenizer(special=SPECIAL))


def text_of(spans):
    """Return the text of spans, joined."""
    return "".join(span.text for span in spans)


def test_the_text_and_its_colours(llm, read_html):
    """The block has the choice's text, and each character the colour of the token that it is."""
    letters = list(b"abc<>&\n")
    choice = llm.complete("x", SamplingParams(max_tokens=40, seed=1, logprobs=2, allowed_token_ids=letters)).choices[0]
    read = read_html(choice._repr_html_())
    assert read.text == choice.text
    spans = [one for name, one in zip(read.names, read.attributes, strict=True) if name == "span" and "title" in one]
    columns = zip(choice.token_ids, choice.logprobs.token_logprobs, choice.logprobs.ranks, strict=True)
    for span, (token_id, logprob, rank) in zip(spans, columns, strict=False):
        assert span["title"] == f"probability {math.exp(logprob):.4g}, rank {rank}, token {token_id}"
        css = level_of(math.exp(logprob)).css
        assert span.get("style") == (f"background-color:{css}" if css else None)
    assert read.names.count("tr") == 1 + len(choice.token_ids)


def test_a_script_in_the_text_is_text(llm, read_html):
    """A completion that spells an element shows it, in the text and in the table."""
    forced = [*b"<script>alert(1)</script>"]
    bias = SamplingParams(max_tokens=len(forced), structured={"choice": [bytes(forced).decode()]}, logprobs=3, seed=0)
    choice = llm.complete("x", bias).choices[0]
    assert choice.text == "<script>alert(1)</script>"
    read = read_html(choice._repr_html_())
    assert (read.text, "script" in read.names) == (choice.text, False)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    echo=st.booleans(),
    healing=st.booleans(),
    stop=st.sampled_from([(), ("a",), ("\ufffd",), ("é", "bb")]),
    skip=st.booleans(),
    prompt=st.sampled_from(["x", "é", "ab ", "日本"]),
)
def test_spans_are_the_text_streamed_or_not(read_html, seed, echo, healing, stop, skip, prompt):
    """The spans join to the text for every seed, and a stream divides its pieces as the whole text is divided.

    Bytes of unfinished characters, special tokens, stop strings that hold text back, echo and token healing included.
    """
    model = ScriptedModel(hashed_logits(), 258, eos_token_ids=(256,))
    llm = LLM.from_parts(model, byte_tokenizer(special=SPECIAL))
    allowed = [*"aéb日".encode(), 0x80, 0xE2, 257]
    params = SamplingParams(
        max_tokens=16,
        seed=seed,
        echo=echo,
        token_healing=healing and not echo,
        stop=stop,
        skip_special_tokens=skip,
        logprobs=0,
        allowed_token_ids=None if healing else allowed,
    )
    choice = llm.complete(prompt, params).choices[0]
    whole = spans_of(choice.text, choice.logprobs)
    assert text_of(whole) == choice.text
    assert read_html(choice._repr_html_()).text == choice.text.translate(outputs_html.html._CONTROLS)
    if healing:
        return
    pieces, streamed = TextSpans(), []
    for delta in llm.stream(prompt, params):
        streamed += pieces.add(delta.text, delta.logprobs.text_offset)
    owners = [tokens for text, tokens in whole for _ in text]
    assert [tokens for text, tokens in streamed for _ in text] == owners


def test_each_character_belongs_to_the_token_that_spells_it(llm):
    """Of ASCII text each character is its token's, also behind a special token that the text does not show."""
    params = SamplingParams(max_tokens=60, seed=4, logprobs=0, allowed_token_ids=[*b"abcd", 257])
    choice = llm.complete("x", params).choices[0]
    assert 257 in choice.token_ids
    spans = spans_of(choice.text, choice.logprobs)
    assert [bytes([choice.token_ids[span.tokens[-1]]]).decode() for span in spans] == list(choice.text)
    assert sorted(token for span in spans for token in span.tokens) == list(range(sum(len(s.tokens) for s in spans)))


def test_tokens_of_one_character_count_together(llm):
    """The probability of a character of several tokens is the product of theirs."""
    params = SamplingParams(max_tokens=4, seed=0, logprobs=0, structured={"choice": ["日"]})
    choice = llm.complete("x", params).choices[0]
    (span,) = spans_of(choice.text, choice.logprobs)
    assert (span.text, span.tokens) == ("日", (0, 1, 2))
    expected = math.exp(sum(choice.logprobs.token_logprobs[:3]))
    assert probability_of(span, choice.logprobs.token_logprobs) == pytest.approx(expected, rel=1e-12)


def test_healed_tokens_are_not_shifted():
    """Characters that the prompt has already are skipped: the text's first character is not the first token's."""
    logprobs = Logprobs(
        tokens=["ab", "c"],
        token_ids=[5, 6],
        token_logprobs=[-1.0, -2.0],
        top_logprobs=[None, None],
        text_offset=[7, 9],
        ranks=[1, 1],
        by_mode=[{}, {}],
        data=[b"ab", b"c"],
        by_token_id=[{}, {}],
    )
    assert spans_of("bc", logprobs) == [("b", (0,)), ("c", (1,))]


def test_echo_has_a_first_token_that_nothing_predicts(llm, read_html):
    """It has no colour, and its title says so; the rest of the prompt has colours."""
    choice = llm.complete("abc", SamplingParams(max_tokens=1, seed=1, echo=True, logprobs=1)).choices[0]
    read = read_html(choice._repr_html_())
    titles = [one["title"] for one in read.attributes if "title" in one]
    assert titles[0] == f"token {ord('a')}, not predicted"
    assert titles[1].startswith("probability ")


def test_choices_without_log_probabilities(llm, read_html):
    """The text is shown without colours or a table."""
    result = llm.complete("x", SamplingParams(max_tokens=8, n=3, seed=1, allowed_token_ids=[*b"<&>"]))
    read = read_html(result._repr_html_())
    assert [block.removeprefix("\n") for block in read.blocks] == [choice.text for choice in result.choices]
    assert "span" not in read.names


def test_beams_and_scores(llm, read_html):
    """Hypotheses have their scores in the summary, and a score shows token ids."""
    result = llm.beam_search("x", BeamSearchParams(beam_width=2, max_tokens=4, logprobs=0))
    source = result._repr_html_()
    read_html(source)
    assert all(f"score {choice.beam_score:.6f}" in source for choice in result.choices)
    (score,) = llm.score("x", ["ab"])
    read = read_html(score._repr_html_())
    assert read.text == f"{ord('a')} {ord('b')}"


def test_a_model_without_a_tokenizer(read_html):
    """Token ids are shown where there is no text."""
    llm = LLM.from_parts(ScriptedModel(hashed_logits(), 50))
    choice = llm.complete([1], SamplingParams(max_tokens=3, seed=1, logprobs=1)).choices[0]
    assert read_html(choice._repr_html_()).text == " ".join(map(str, choice.token_ids))


def long_choice(num_tokens, num_top=30):
    """Return a choice of many tokens, each of the longest escapes."""
    text = '"' * num_tokens
    top = {f"'{rank}" * 40: -1.0 - rank for rank in range(num_top)}
    logprobs = Logprobs(
        tokens=['"' * 1000] * num_tokens,
        token_ids=list(range(num_tokens)),
        token_logprobs=[-9.0] * num_tokens,
        top_logprobs=[top] * num_tokens,
        text_offset=list(range(num_tokens)),
        ranks=[9] * num_tokens,
        by_mode=[{}] * num_tokens,
        data=[b'"'] * num_tokens,
        by_token_id=[{}] * num_tokens,
    )
    return Choice(0, text, list(range(num_tokens)), "length", None, logprobs, 1)


def test_the_size_is_bounded_and_the_rest_is_counted(llm, read_html):
    """However long and many the choices are, the HTML stays small and says what is left out."""
    result = llm.complete("x", SamplingParams(max_tokens=1, seed=1))
    result.choices[:] = [long_choice(30_000) for _ in range(40)]
    source = result._repr_html_()
    assert len(source) < MAX_BYTES
    assert "24 more choices are not shown" in source
    read_html(source)
    alone = long_choice(30_000)._repr_html_()
    assert len(alone) < MAX_BYTES
    assert f"{30_000 - outputs_html.MAX_SPANS:,} more characters are not shown here" in alone
    assert f"{30_000 - outputs_html.MAX_ROWS:,} more tokens are not shown here" in alone
    assert "(25 more)" in alone


def test_long_texts_and_scores_are_bounded():
    """Text without log-probabilities and scores, too."""
    plain = Choice(0, "<" * 10**6, [], "length", None, None, 1)._repr_html_()
    score = Score(list(range(10**5)), [-1.0] * 10**5, [1] * 10**5, -1e5)._repr_html_()
    assert max(len(plain), len(score)) < MAX_BYTES
    assert "980,000 more characters are not shown here" in plain
    assert "98,000 more tokens are not shown here" in score
