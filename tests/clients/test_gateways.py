"""litellm and langchain-openai: libraries that stand between programs and servers, with fields of their own."""

from __future__ import annotations

import asyncio

import pytest

from decoding import SamplingParams

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def expected(llm):
    """What the model writes for the requests below."""
    return llm.complete(PROMPT, SamplingParams(max_tokens=12, seed=5, temperature=0.7, stop=["zzz"])).choices[0].text


def test_litellm(address, expected):
    """Whole, streamed, asynchronous, and its own error for ours."""
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
    """invoke, stream, batch and generate with its token counts."""
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
