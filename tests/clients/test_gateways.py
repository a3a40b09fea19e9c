"""The libraries litellm and langchain-openai against a server: gateways that add fields of their own."""

from __future__ import annotations

import asyncio

import pytest

from decoding import SamplingParams

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def expected(llm):
    """Return the library's text for the completions below."""
    return llm.complete(PROMPT, SamplingParams(max_tokens=12, seed=5, temperature=0.7, stop=["zzz"])).choices[0].text


def test_litellm(address, expected):
    """Completions through litellm have the library's text with and without streaming; an error is litellm's own."""
    litellm = pytest.importorskip("litellm", reason="needs the extra `clients` (bash tests/clients/run)")
    fields = {
        "model": "text-completion-openai/stories260K",
        "prompt": PROMPT,
        "api_base": f"{address}/v1",
        "api_key": "none",
        "max_tokens": 12,
        "seed": 5,
        "temperature": 0.7,
        "stop": ["zzz"],
    }
    assert litellm.text_completion(**fields).choices[0].text == expected
    pieces = litellm.text_completion(**fields, stream=True)
    assert "".join(chunk.choices[0].text or "" for chunk in pieces) == expected
    assert asyncio.run(litellm.atext_completion(**fields)).choices[0].text == expected
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.text_completion(**{**fields, "temperature": 3})
    with pytest.raises(litellm.NotFoundError):
        litellm.text_completion(**{**fields, "model": "text-completion-openai/none"})


def test_langchain(address, expected):
    """The methods invoke, stream, batch and generate of langchain give the library's text and token counts."""
    langchain_openai = pytest.importorskip("langchain_openai", reason="needs the extra `clients`")
    model = langchain_openai.OpenAI(
        base_url=f"{address}/v1",
        api_key="none",
        model="stories260K",
        max_tokens=12,
        seed=5,
        temperature=0.7,
        stop=["zzz"],
    )
    assert model.invoke(PROMPT) == expected
    assert "".join(model.stream(PROMPT)) == expected
    assert model.batch([PROMPT, PROMPT]) == [expected, expected]
    result = model.generate([PROMPT])
    assert result.generations[0][0].text == expected
    assert result.llm_output["token_usage"]["completion_tokens"] == 12


MESSAGES = [{"role": "system", "content": "Tell stories."}, {"role": "user", "content": "Once upon a time"}]


@pytest.fixture(scope="module")
def reply(llm):
    """Return the library's reply for the conversations below."""
    return llm.chat(MESSAGES, SamplingParams(max_tokens=12, seed=5, temperature=0.7, stop=["zzz"])).choices[0].text


def test_litellm_chat(address, reply):
    """A chat through litellm has the library's reply with and without streaming; an error is litellm's own."""
    litellm = pytest.importorskip("litellm", reason="needs the extra `clients` (bash tests/clients/run)")
    fields = {
        "model": "openai/stories260K",
        "messages": MESSAGES,
        "api_base": f"{address}/v1",
        "api_key": "none",
        "max_tokens": 12,
        "seed": 5,
        "temperature": 0.7,
        "stop": ["zzz"],
    }
    assert litellm.completion(**fields).choices[0].message.content == reply
    pieces = litellm.completion(**fields, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == reply
    with pytest.raises(litellm.BadRequestError, match="role"):
        litellm.completion(**{**fields, "messages": [{"role": "<|x|>", "content": "x"}]})


def test_langchain_chat(address, reply):
    """A chat model of langchain gives the library's reply, streams, token counts and log-probabilities."""
    langchain_openai = pytest.importorskip("langchain_openai", reason="needs the extra `clients`")
    model = langchain_openai.ChatOpenAI(
        base_url=f"{address}/v1",
        api_key="none",
        model="stories260K",
        max_tokens=12,
        seed=5,
        temperature=0.7,
        stop=["zzz"],
    )
    messages = [("system", MESSAGES[0]["content"]), ("user", MESSAGES[1]["content"])]
    answer = model.invoke(messages)
    assert answer.content == reply
    assert answer.usage_metadata["output_tokens"] == 12
    assert "".join(piece.content for piece in model.stream(messages)) == reply
    logprobs = model.bind(logprobs=True, top_logprobs=2).invoke(messages).response_metadata["logprobs"]
    assert [len(entry["top_logprobs"]) for entry in logprobs["content"]] == [2] * 12
