"""Chat completions of the real `openai` SDK against a real server process."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from decoding import LLM, SamplingParams
from decoding.chat import ChatFormat

openai = pytest.importorskip("openai", reason="needs the extra `test`")

TEMPLATE = Path(__file__).with_name("chat.jinja").read_text()
MESSAGES = [{"role": "system", "content": "Write Python."}, {"role": "user", "content": "Add <|endoftext|> two"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def client(chat_server):
    """Yield the SDK's client without its retries."""
    with openai.OpenAI(base_url=chat_server.url, api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def llm():
    """Return the server's model, loaded in this process."""
    one = LLM()
    one.chat_format = ChatFormat(one.tokenizer, chat_template=TEMPLATE)
    return one


def create(client, messages=MESSAGES, **fields):
    """Send a chat request to the model."""
    return client.chat.completions.create(model="bundled", messages=messages, **fields)


def test_a_reply_is_the_librarys(client, llm):
    """A reply has the library's text, log-probabilities, finish reason and usage for the same seed."""
    params = SamplingParams(max_tokens=12, temperature=0.7, seed=5, logprobs=3, presence_penalty=0.5)
    (mine,) = llm.chat(MESSAGES, params).choices
    got = create(client, max_tokens=12, temperature=0.7, seed=5, logprobs=True, top_logprobs=3, presence_penalty=0.5)
    (choice,) = got.choices
    assert (choice.message.role, choice.message.content) == ("assistant", mine.text)
    assert (choice.finish_reason, choice.index) == (mine.finish_reason, 0)
    assert [one.logprob for one in choice.logprobs.content] == pytest.approx(mine.logprobs.token_logprobs, abs=1e-4)
    assert got.usage.prompt_tokens == len(llm.chat_prompt(MESSAGES).token_ids)
    assert got.usage.completion_tokens == len(mine.token_ids) == 12
    assert got.system_fingerprint == llm.system_fingerprint
    assert (got.object, got.model, got.id[:9]) == ("chat.completion", "bundled", "chatcmpl-")


def test_logprobs_have_the_shape_of_chat(client):
    """Each token has its bytes and exactly the requested alternatives; the bytes concatenate to the text."""
    (choice,) = create(client, max_tokens=20, seed=3, logprobs=True, top_logprobs=20).choices
    entries = choice.logprobs.content
    assert bytes(byte for entry in entries for byte in entry.bytes).decode() == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 20
        assert entry.top_logprobs == sorted(entry.top_logprobs, key=lambda one: -one.logprob)
        assert math.exp(entry.logprob) <= 1
    (alone,) = create(client, max_tokens=3, seed=3, logprobs=True).choices
    assert [entry.top_logprobs for entry in alone.logprobs.content] == [[], [], []]
    assert create(client, max_tokens=3, seed=3).choices[0].logprobs is None


def test_streams_add_up(client):
    """The chunks of two choices concatenate to the whole reply: roles first, finish reasons and usage last."""
    fields = {"max_tokens": 9, "seed": 8, "n": 2, "stop": ["zzz"], "logprobs": True, "top_logprobs": 1}
    whole = create(client, **fields)
    chunks = list(create(client, **fields, stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        pieces = [one for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert "".join(piece.delta.content for piece in pieces) == choice.message.content
        assert [piece.delta.role for piece in pieces] == ["assistant"] + [None] * (len(pieces) - 1)
        assert [piece.finish_reason for piece in pieces][-1] == choice.finish_reason
        assert [
            entry for piece in pieces if piece.logprobs for entry in piece.logprobs.content
        ] == choice.logprobs.content


def test_many_conversations_at_once(chat_server, llm):
    """Concurrent asynchronous requests get the replies that they get alone."""
    conversations = [[{"role": "user", "content": f"Write f({number})"}] for number in range(6)]

    async def ask():
        async with openai.AsyncOpenAI(base_url=chat_server.url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(create(client, one, max_tokens=6, seed=1) for one in conversations))

    texts = [got.choices[0].message.content for got in asyncio.run(ask())]
    params = SamplingParams(max_tokens=6, seed=1)
    assert texts == [llm.chat(one, params).choices[0].text for one in conversations]


def test_options_of_the_template(client, llm):
    """Tools, template variables and continue_final_message reach the template; tool_choice=none removes the tools."""
    count = {
        name: create(client, max_tokens=1, **fields).usage.prompt_tokens
        for name, fields in {
            "plain": {},
            "tools": {"tools": [TOOL]},
            "none": {"tools": [TOOL], "tool_choice": "none"},
            "place": {"extra_body": {"chat_template_kwargs": {"place": "Paris"}}},
            "continued": {"extra_body": {"continue_final_message": True}},
        }.items()
    }
    options = {
        "plain": {},
        "tools": {"tools": [TOOL]},
        "none": {},
        "place": {"chat_template_kwargs": {"place": "Paris"}},
        "continued": {"continue_final_message": True},
    }
    assert count == {name: len(llm.chat_prompt(MESSAGES, **one).token_ids) for name, one in options.items()}
    assert len(set(count.values())) == 4


def test_a_reply_may_fill_the_context(client, llm):
    """Without max_tokens and max_completion_tokens a reply may fill the rest of the context."""
    wide = [{"role": "user", "content": "x " * (llm.max_model_len - 50)}]
    room = llm.max_model_len - len(llm.chat_prompt(wide).token_ids) + 1
    assert 16 < room < 64
    got = create(client, wide, extra_body={"ignore_eos": True})
    assert (got.usage.completion_tokens, got.choices[0].finish_reason) == (room, "length")
    assert create(client, wide, max_completion_tokens=2).usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"messages": []}, "messages", "messages=[]: must be an array of messages"),
        ({"messages": None}, "messages", "messages=null: is required"),
        ({"messages": [{"content": "x"}]}, "messages", "messages[0].role=None: must be a word"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages", "refuses them: 'no judges'"),
        ({"messages": [{"role": "user", "content": "x " * 9999}]}, "messages", "tokens: must fit"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "read text only"),
        ({"chat_template_kwargs": {"loops": True}}, "messages", "chat template: must take at most 10,000,000 steps"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "must be an ASCII identifier"),
        ({"prompt": "x"}, "prompt", "prompt='x': must be a field of the API"),
        ({"echo": True}, "echo", "must be a field of the API"),
        ({"mesages": []}, "mesages", "did you mean messages?"),
        ({"top_logprobs": 3}, "top_logprobs", "must come with logprobs=true"),
        (
            {"logprobs": True, "top_logprobs": 21},
            "top_logprobs",
            "must be an integer from 0 to 20 (--max-top-logprobs)",
        ),
        ({"logprobs": 3}, "logprobs", "logprobs=3: must be True or False"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "must be max_tokens=3"),
        ({"tool_choice": "required"}, "tool_choice", "must be"),
        ({"temperature": 9, "logprobs": 3}, "logprobs", "temperature=9: must be"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "must come with stream=true"),
        ({"messages": [{"role": "user", "content": "x", "a": float("nan")}]}, "body", "must have finite numbers"),
    ],
)
def test_wrong_requests(chat_server, fields, param, told):
    """A wrong request gets 400 with the field's name."""
    body = {"model": "bundled", "messages": MESSAGES, "max_tokens": 1, **fields}
    answer = chat_server.request("POST", "/v1/chat/completions", body)
    assert answer.status == 400
    assert told in answer.error["message"]
    assert answer.error["param"] == (None if param == "body" else param)


def test_a_model_without_a_template(server):
    """A chat request gets 400 from a model without a template and 404 for an unknown model."""
    answer = server.request("POST", "/v1/chat/completions", {"model": "bundled", "messages": MESSAGES})
    assert (answer.status, answer.error["param"]) == (400, "messages")
    assert "no default chat template" in answer.error["message"]
    answer = server.request("POST", "/v1/chat/completions", {"model": "other", "messages": MESSAGES})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_the_route_is_described(chat_server):
    """The OpenAPI document declares the fields of a chat request and the schema of its answer."""
    document = chat_server.request("GET", "/openapi.json").json
    operation = document["paths"]["/v1/chat/completions"]["post"]
    properties = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"messages", "tools", "top_logprobs", "temperature", "min_p"} <= set(properties)
    assert not {"prompt", "echo", "suffix"} & set(properties)
    assert "ChatCompletionObject" in document["components"]["schemas"]
