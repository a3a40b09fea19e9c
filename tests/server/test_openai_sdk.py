"""The `openai` SDK against a real server: the server accepts its requests, and the SDK accepts the answers."""

from __future__ import annotations

import asyncio

import pytest

from decoding import LLM, SamplingParams

openai = pytest.importorskip("openai", reason="needs the extra `test`")

PROMPT = "def add(a, b):\n"


@pytest.fixture(scope="module")
def client(server):
    """Yield the SDK's client without its retries."""
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def llm():
    """Return the server's model, loaded in this process."""
    return LLM()


def test_a_completion_is_the_librarys(client, llm):
    """A completion has the library's text, log-probabilities, finish reason and usage for the same seed."""
    params = SamplingParams(max_tokens=12, temperature=0.7, top_p=0.9, seed=-5, logprobs=3, frequency_penalty=0.5)
    expected = llm.complete(PROMPT, params)
    got = client.completions.create(
        model="bundled",
        prompt=PROMPT,
        max_tokens=12,
        temperature=0.7,
        top_p=0.9,
        seed=-5,
        logprobs=3,
        frequency_penalty=0.5,
    )
    (choice,), (mine,) = got.choices, expected.choices
    assert (choice.text, choice.finish_reason, choice.index) == (mine.text, mine.finish_reason, 0)
    assert choice.logprobs.tokens == mine.logprobs.tokens
    assert choice.logprobs.token_logprobs == pytest.approx(mine.logprobs.token_logprobs, abs=1e-4)
    assert choice.logprobs.text_offset == mine.logprobs.text_offset
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (
        expected.usage.prompt_tokens,
        expected.usage.completion_tokens,
    )
    assert got.system_fingerprint == llm.system_fingerprint
    assert (got.object, got.model, got.id[:5]) == ("text_completion", "bundled", "cmpl-")


def test_the_logprob_of_a_drawn_token_is_its_entry_among_the_top(client):
    """token_logprobs and top_logprobs have the same float for a drawn token, which evaluation harnesses compare."""
    got = client.completions.create(model="bundled", prompt=PROMPT, max_tokens=20, seed=3, logprobs=5)
    logprobs = got.choices[0].logprobs
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert top[token] == logprob


@pytest.mark.parametrize("shape", ["text", "texts", "ids", "lists of ids"])
def test_the_four_shapes_of_a_prompt(client, llm, shape):
    """A text and its token ids give the same completions, alone and in lists, in the order of the prompts."""
    ids = llm.tokenizer.encode(PROMPT), llm.tokenizer.encode("import ")
    prompt = {"text": PROMPT, "texts": [PROMPT, "import "], "ids": ids[0], "lists of ids": list(ids)}[shape]
    got = client.completions.create(model="bundled", prompt=prompt, max_tokens=5, n=2, seed=1)
    number = 2 if "s of" in shape or shape == "texts" else 1
    texts = [PROMPT, "import "][:number]
    expected = [
        choice.text
        for result in llm.complete(texts, SamplingParams(max_tokens=5, n=2, seed=1))
        for choice in result.choices
    ]
    assert [choice.index for choice in got.choices] == list(range(2 * number))
    assert [choice.text for choice in got.choices] == expected


def test_streams_add_up(client):
    """The chunks, one choice per chunk, concatenate to the completion; the last of a choice has its finish reason."""
    fields = {"model": "bundled", "prompt": PROMPT, "max_tokens": 20, "n": 2, "seed": 4, "logprobs": 1}
    whole = client.completions.create(**fields)
    texts, reasons, tokens = ["", ""], [[], []], [[], []]
    chunks = list(client.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        reasons[choice.index].append(choice.finish_reason)
        tokens[choice.index] += choice.logprobs.tokens
        assert chunk.usage is None
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert [list(filter(None, some)) for some in reasons] == [[choice.finish_reason] for choice in whole.choices]
    assert all(some[-1] for some in reasons)
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_async_streams_side_by_side(server, llm):
    """Twenty concurrent streams of one event loop have the texts that they have alone."""
    expected = [llm.complete(PROMPT, SamplingParams(max_tokens=10, seed=seed)).choices[0].text for seed in range(20)]

    async def text_of(client, seed):
        stream = await client.completions.create(model="bundled", prompt=PROMPT, max_tokens=10, seed=seed, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(text_of(client, seed) for seed in range(20)))

    got = asyncio.run(all_of_them())
    same = sum(mine == its for mine, its in zip(expected, got, strict=True))
    assert same >= 18  # numpy may round a matmul differently in another batch, which can change a draw


def test_echo_scores_the_prompt(client, llm):
    """Echo with max_tokens=0 returns the prompt, with log-probabilities from the second token on, and adds no token."""
    got = client.completions.create(model="bundled", prompt=PROMPT, max_tokens=0, echo=True, logprobs=2)
    (choice,) = got.choices
    assert (choice.text, choice.finish_reason, got.usage.completion_tokens) == (PROMPT, "length", 0)
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.top_logprobs[0] is None
    assert all(value < 0 for value in choice.logprobs.token_logprobs[1:])
    assert len(choice.logprobs.tokens) == got.usage.prompt_tokens == len(llm.tokenizer.encode(PROMPT))


def test_every_other_parameter_arrives(client, llm):
    """The remaining parameters, extensions in extra_body included, have the library's effect."""
    fields = {
        "stop": ["\n\n"],
        "presence_penalty": 1.0,
        "logit_bias": {"202": -5.0},
        "best_of": 3,
        "n": 2,
        "suffix": "\n    return x\n",
    }
    extensions = {"top_k": 20, "min_p": 0.01, "min_tokens": 3, "repetition_penalty": 0.5, "ignore_eos": True}
    got = client.completions.create(
        model="bundled", prompt="x = ", max_tokens=12, seed=9, user="me", extra_body=extensions, **fields
    )
    bias = {202: -5.0}
    own = {
        **fields,
        **extensions,
        "logit_bias": bias,
        "context_frequency_penalty": extensions.pop("repetition_penalty"),
    }
    own.pop("repetition_penalty")
    expected = llm.complete("x = ", SamplingParams(max_tokens=12, seed=9, **own))
    assert [choice.text for choice in got.choices] == [choice.text for choice in expected.choices]
    assert got.usage.completion_tokens == expected.usage.completion_tokens


def test_errors_are_the_sdks_own(client):
    """A wrong value raises BadRequestError with its parameter; an unknown model raises NotFoundError with the names."""
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="bundled", prompt=PROMPT, temperature=3)
    assert (bad.value.param, bad.value.type, bad.value.code) == (
        "temperature",
        "invalid_request_error",
        "invalid_value",
    )
    assert "must be a number from 0 to 2" in bad.value.message
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="bundled", prompt="word " * 5000)
    assert (long.value.param, long.value.code) == ("prompt", "context_length_exceeded")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="gpt-x", prompt=PROMPT)
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    assert "bundled" in unknown.value.message
    with pytest.raises(openai.BadRequestError, match="must be null or n=1 when streaming"):
        client.completions.create(model="bundled", prompt=PROMPT, best_of=2, stream=True)


def test_a_stream_that_fails_is_an_error(serve_script):
    """The error event of a stream raises the SDK's APIError with its code."""
    server = serve_script("nan")
    texts = []
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        stream = client.completions.create(model="scripted", prompt="M", max_tokens=50, stream=True)
        with pytest.raises(openai.APIError) as failed:
            texts += [chunk.choices[0].text for chunk in stream]
        assert failed.value.code == "model_error"


def test_models(client):
    """/v1/models returns the list, a model by name, and 404 for an unknown name."""
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("bundled", "model", "decoding")
    assert client.models.retrieve("bundled") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such")


def test_raw_answers_have_the_request_id(client):
    """An answer has the client's request id; a missing or malformed id is replaced."""
    raw = client.completions.with_raw_response
    sent = raw.create(model="bundled", prompt="x", max_tokens=1, extra_headers={"x-request-id": "my-id.1"})
    assert sent.headers["x-request-id"] == "my-id.1"
    assert sent.parse().choices[0].finish_reason == "length"
    assert raw.create(model="bundled", prompt="x", max_tokens=1).headers["x-request-id"].startswith("req_")
    odd = raw.create(model="bundled", prompt="x", max_tokens=1, extra_headers={"x-request-id": "a b<script>"})
    assert odd.headers["x-request-id"].startswith("req_")
