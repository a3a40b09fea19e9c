"""Text constraints through a real server and the `openai` SDK: structured output, banned strings, token healing."""

import json
import re

import pytest

from decoding import LLM, SamplingParams

openai = pytest.importorskip("openai", reason="needs the extra `test`")
pytest.importorskip("llguidance")

PROMPT = "def add(a, b):\n"
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(server):
    """Yield the SDK's client without its retries."""
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as one:
        yield one


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output(client, stream):
    """response_format and structured_outputs give texts of the grammar, with and without streaming."""
    spellings = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "structured_outputs": {"regex": "(yes|no)[!]{1,2}"},
    }
    for field, value in spellings.items():
        got = client.completions.create(
            model="bundled", prompt="# ", max_tokens=90, seed=1, stream=stream, extra_body={field: value}
        )
        pieces = list(got) if stream else [got]
        text = "".join(piece.choices[0].text for piece in pieces)
        if field == "response_format":
            assert set(json.loads(text)) == {"ok", "n"}
        else:
            assert re.fullmatch("(yes|no)!{1,2}", text)


@pytest.mark.parametrize("regex", ["(", "()", "(?=a)b", ""])
def test_a_bad_grammar_gets_400(client, regex):
    """A wrong grammar gets 400 with its field, and the next request is served."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(
            model="bundled", prompt="a", max_tokens=3, extra_body={"structured_outputs": {"regex": regex}}
        )
    assert caught.value.body["param"] == "structured_outputs"
    assert client.completions.create(model="bundled", prompt="a", max_tokens=3).choices[0].finish_reason == "length"


def test_banned_strings_loops_and_chosen_ids(client):
    """Banned strings, loop detection and logprob_token_ids in extra_body have the library's effect."""
    llm = LLM()
    loop = {"max_pattern_size": 8, "min_count": 3}
    fields = {"banned_strings": ["return", "self"], "repetition_detection": loop, "logprob_token_ids": [3, 4]}
    mine = llm.complete(PROMPT, SamplingParams(max_tokens=24, temperature=0, logprobs=0, **fields)).choices[0]
    got = client.completions.create(
        model="bundled", prompt=PROMPT, max_tokens=24, temperature=0, logprobs=0, extra_body=fields
    )
    choice = got.choices[0]
    assert "return" not in choice.text
    assert (choice.text, choice.model_extra["stop_reason"]) == (mine.text, mine.stop_reason)
    by_id = choice.logprobs.model_extra["by_token_id"]
    assert [set(values) for values in by_id] == [{"3", "4"}] * len(choice.logprobs.tokens)
    assert by_id[0]["3"] == pytest.approx(mine.logprobs.by_token_id[0][3], abs=1e-4)


def test_token_healing(client):
    """With token_healing the text continues in the middle of a word, and echo returns the prompt once."""
    prompt = "def add(a, b):\n    retu"
    fields = {"model": "bundled", "prompt": prompt, "max_tokens": 4, "temperature": 0}
    healed = client.completions.create(**fields, extra_body={"token_healing": True}).choices[0].text
    echoed = client.completions.create(**fields, echo=True, extra_body={"token_healing": True}).choices[0].text
    assert healed.startswith("rn")
    assert echoed == prompt + healed


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"token_healing": True, "suffix": "x"}, "token_healing"),
        ({"logprob_token_ids": [1]}, "logprob_token_ids"),
        ({"repetition_detection": {"max_pattern_size": 3}}, "repetition_detection"),
        ({"banned_strings": [""]}, "banned_strings"),
    ],
)
def test_wrong_constraints_get_400(client, fields, param):
    """A wrong text constraint gets 400 with its parameter."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="bundled", prompt=PROMPT, max_tokens=3, extra_body=fields)
    assert caught.value.body["param"] == param
