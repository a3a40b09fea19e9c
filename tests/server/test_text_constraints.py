"""Constraints of the text through a real server, with the real SDK: structured output, and what is refused."""

import json
import re

import pytest

openai = pytest.importorskip("openai", reason="needs the extra `test`")
pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(server):
    """The SDK as people set it up, without its retries."""
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as one:
        yield one


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output(client, stream):
    """Both spellings give a sentence of the grammar, whole and in pieces."""
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
def test_a_bad_grammar_is_a_400_and_the_server_goes_on(client, regex):
    """The error names the field; the next request is answered."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(
            model="bundled", prompt="a", max_tokens=3, extra_body={"structured_outputs": {"regex": regex}}
        )
    assert caught.value.body["param"] == "structured_outputs"
    assert client.completions.create(model="bundled", prompt="a", max_tokens=3).choices[0].finish_reason == "length"
