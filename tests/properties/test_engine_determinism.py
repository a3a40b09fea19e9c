"""A request's result does not depend on other requests, and a stream is the result in pieces."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

# Tokens that split characters, contain stop strings, or overlap with them: they make difficult texts.
EXTRA = [b"\xe2\x80", b"\x99", b"\x80\x99s", b"ab", b"ba", b"aab", "\u2019a".encode(), b"\xf0\x9f\x98"]
EXTRA = [token for token in EXTRA if len(token) > 1]
TOKENIZER = byte_tokenizer(EXTRA, ["<t>", "<eos>"])
VOCAB_SIZE = TOKENIZER.vocab_size
EOS = VOCAB_SIZE - 1
ALPHABET = [97, 98, 0xE2, 0x80, 0x99, *range(256, VOCAB_SIZE)]

PROMPTS = st.one_of(
    st.text("ab\u2019", min_size=1, max_size=6), st.lists(st.sampled_from(ALPHABET[:-1]), min_size=1, max_size=6)
)
PARAMS = st.builds(
    SamplingParams,
    seed=st.integers(-(2**63), 2**63 - 1),
    n=st.integers(1, 3),
    max_tokens=st.integers(0, 12),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 3.0]),
    top_p=st.sampled_from([1.0, 0.9]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logprobs=st.sampled_from([None, 0, 2]),
    echo=st.booleans(),
    stop=st.lists(
        st.text("ab\u2019", min_size=1, max_size=4) | st.sampled_from(["<t>", "<t>a", "b<t", ">", "<eos>", "<eos><t>"]),
        max_size=3,
    ),
    include_stop_str_in_output=st.booleans(),
    ignore_eos=st.booleans(),
    skip_special_tokens=st.booleans(),
    allowed_token_ids=st.just(ALPHABET),
)
REQUESTS = st.tuples(PROMPTS, PARAMS)


def make_llm(**settings):
    """Return a scripted model whose logits depend only on the sequence's own tokens."""
    model = ScriptedModel(hashed_logits(), VOCAB_SIZE, max_position_embeddings=16, eos_token_ids=(EOS,), most_steps=4)
    return LLM.from_parts(model, TOKENIZER, **settings)


def bits(choice):
    """Return the parts of a choice without its index; log-probabilities as bits."""
    logprobs = choice.logprobs and [value and struct.pack("<d", value) for value in choice.logprobs.token_logprobs]
    return (
        choice.text,
        choice.token_ids,
        choice.finish_reason,
        choice.stop_reason,
        choice.seed,
        logprobs,
        choice.logprobs,
    )


def streamed(llm, prompt, params):
    """Return the deltas of each choice, by index."""
    pieces = {}
    for delta in llm.stream(prompt, params):
        pieces.setdefault(delta.index, []).append(delta)
    return pieces


@settings(deadline=None, max_examples=40)
@given(REQUESTS, st.lists(REQUESTS, min_size=16, max_size=16), st.integers(0, 16), st.integers(1, 20))
def test_alone_in_a_batch_streamed_and_as_one_of_eight(request, others, place, max_num_seqs):
    """A request gives the same tokens, bits and text alone, in a batch, as a stream and with n=8."""
    prompt, params = request
    llm = make_llm(max_num_seqs=max_num_seqs)
    alone = llm.complete(prompt, params)
    company = [*others[:place], request, *others[place:]]
    batch = llm.complete([p for p, _ in company], [kw for _, kw in company])
    assert [bits(c) for c in batch[place].choices] == [bits(c) for c in alone.choices]
    fields = {name: getattr(params, name) for name in SamplingParams.__slots__}
    eight = llm.complete(prompt, SamplingParams(**{**fields, "n": 8}))
    assert [bits(c) for c in eight.choices[: params.n]] == [bits(c) for c in alone.choices]
    first = streamed(llm, prompt, params)[0]
    assert ("".join(d.text for d in first), [t for d in first for t in d.token_ids]) == bits(alone.choices[0])[:2]


@settings(deadline=None, max_examples=100)
@given(REQUESTS)
def test_streamed_pieces_add_up(request):
    """The deltas of each choice add up to its text, tokens, log-probabilities and finish reason."""
    prompt, params = request
    llm = make_llm()
    choices = llm.complete(prompt, params).choices
    pieces = streamed(llm, prompt, params)
    assert sorted(pieces) == [choice.index for choice in choices]
    for choice in choices:
        deltas = pieces[choice.index]
        assert "".join(d.text for d in deltas) == choice.text
        assert [t for d in deltas for t in d.token_ids] == choice.token_ids
        assert [d.finish_reason for d in deltas] == [None] * (len(deltas) - 1) + [choice.finish_reason]
        if choice.logprobs is not None:
            for column in ("tokens", "token_ids", "token_logprobs", "top_logprobs", "text_offset", "ranks"):
                assert [x for d in deltas for x in getattr(d.logprobs, column)] == getattr(choice.logprobs, column)


@settings(deadline=None, max_examples=100)
@given(REQUESTS)
def test_text_is_the_bytes_of_the_tokens_cut_at_the_stop_string(request):
    """The text follows from all sampled tokens by the definition of stop strings.

    Join the bytes of all tokens including special ones, find the first stop string, cut there, drop the special tokens
    that are not shown, decode.
    """
    prompt, params = request
    fields = {name: getattr(params, name) for name in SamplingParams.__slots__}
    endless = SamplingParams(**{**fields, "stop": (), "echo": False})
    llm = make_llm()
    for whole, cut in zip(
        llm.complete(prompt, endless).choices,
        llm.complete(prompt, SamplingParams(**{**fields, "echo": False})).choices,
        strict=True,
    ):
        generated = whole.token_ids[:-1] if whole.finish_reason == "stop" else whole.token_ids
        data = b"".join(TOKENIZER.token_bytes(t, False) for t in generated)
        ends = [(data.find(stop.encode()) + len(stop.encode()), data.find(stop.encode()), stop) for stop in params.stop]
        found = min((end for end in ends if end[1] >= 0), default=None)
        kept = len(data) if found is None else found[0] if params.include_stop_str_in_output else found[1]
        shown, tokens, position = b"", [], 0
        for token_id in generated:
            piece = TOKENIZER.token_bytes(token_id, False)
            if position < kept:
                tokens.append(token_id)
                is_shown = TOKENIZER.token_bytes(token_id, params.skip_special_tokens) != b""
                shown += piece[: kept - position] if is_shown else b""
            position += len(piece)
        assert cut.text == shown.decode("utf-8", "replace")
        if found is None:
            assert (cut.text, cut.token_ids) == (whole.text, whole.token_ids)
        else:
            assert (cut.token_ids, cut.stop_reason, cut.finish_reason) == (tokens, found[2], "stop")


@settings(deadline=None, max_examples=100)
@given(REQUESTS)
def test_offsets_index_the_text_and_usage_adds_up(request):
    """Every token that is text by itself is in the text at its offset; usage sums the sampled tokens."""
    prompt, params = request
    fields = {name: getattr(params, name) for name in SamplingParams.__slots__}
    result = make_llm().complete(prompt, SamplingParams(**{**fields, "logprobs": 1, "echo": True, "stop": ()}))
    for choice in result.choices:
        logprobs = choice.logprobs
        assert logprobs.token_ids == choice.token_ids
        assert logprobs.text_offset == sorted(logprobs.text_offset)
        for text, offset, token_id in zip(logprobs.tokens, logprobs.text_offset, logprobs.token_ids, strict=True):
            if TOKENIZER.is_special(token_id):
                assert text == TOKENIZER.token_text(token_id, skip_special_tokens=False)
            else:
                assert text.startswith("bytes:") or choice.text[offset : offset + len(text)] == text
        for text, logprob, top in zip(
            logprobs.tokens[1:], logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True
        ):
            assert top[text] == logprob
    num_prompt = len(result.prompt_token_ids)
    assert result.usage.prompt_tokens == num_prompt
    assert result.usage.completion_tokens == sum(len(c.token_ids) - num_prompt for c in result.choices)
