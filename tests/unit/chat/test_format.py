"""Tests of ChatFormat and its messages: accepted values, and errors that name what is wrong."""

import pytest

from decoding import LLM, SamplingParams
from decoding.chat import ChatFormat
from decoding.chat.messages import checked_messages
from decoding.errors import ContextLengthError, ParameterError, PromptError, TokenizerError
from decoding.testing.scripted import ScriptedModel, hashed_logits

USER = {"role": "user", "content": "Hello"}


def test_the_default_template(chat, tokenizer):
    """Messages become the text of the template and its token ids, without a start token."""
    prompt = chat.prompt([USER])
    assert prompt.text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.token_ids == tokenizer.encode(prompt.text, add_special_tokens=False)
    assert chat.prompt([USER], add_generation_prompt=False).text == "<|im_start|>user\nHello<|im_end|>\n"


def test_named_templates(make_tokenizer):
    """Tools choose the template "tool_use", a name chooses a template, and a given template replaces the default."""
    named = [{"name": "default", "template": "{{ 'd' }}"}, {"name": "tool_use", "template": "{{ 't' }}"}]
    chat = ChatFormat(make_tokenizer(named))
    assert chat.prompt([USER]).text == "d"
    assert chat.prompt([USER], tools=[{"name": "f"}]).text == "t"
    assert chat.prompt([USER], tools=[]).text == "d"
    assert chat.prompt([USER], chat_template="tool_use").text == "t"
    assert ChatFormat(make_tokenizer(named), chat_template="{{ 'own' }}").prompt([USER]).text == "own"
    with pytest.raises(
        ParameterError, match=r"chat_template='tool_usw': must be the text of a template.*default, tool"
    ):
        chat.prompt([USER], chat_template="tool_usw")
    with pytest.raises(TokenizerError, match=r"no default chat template \(it has rag\): give one"):
        ChatFormat(make_tokenizer([{"name": "rag", "template": "x"}])).prompt([USER])


def test_names_of_a_template(chat, make_tokenizer):
    """A template sees the config's tokens and the caller's arguments, which cannot replace the messages."""
    tokenizer = make_tokenizer(pad_token={"content": "<pad>"}, model_max_length=7, image_token=None)
    template = "{{ bos_token }}{{ pad_token }}{{ thinks }}{{ image_token is defined }}{{ model_max_length }}"
    prompt = ChatFormat(tokenizer).prompt([USER], chat_template=template, chat_template_kwargs={"thinks": True})
    assert prompt.text == "<|im_start|><pad>TrueFalse"
    for name in ("messages", "tools", "a b", "", "é", 3):
        with pytest.raises(ParameterError, match="chat_template_kwargs="):
            chat.prompt([USER], chat_template_kwargs={name: 1})


def test_contents_in_parts():
    """Text parts are joined by newlines, call arguments become objects, and reasoning gets both of its names."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    given = [
        {"role": "user", "content": parts},
        {"role": "assistant", "tool_calls": [call], "reasoning": "so"},
    ]
    first, second = checked_messages(given)
    assert first["content"] == "a\nb"
    assert second["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert (second["thinking"], second["reasoning_content"]) == ("so", "so")
    assert call["function"]["arguments"] == '{"x": 1}', "the caller's own messages stay as they are"


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "messages=[]: must be a list"),
        ("hello", "messages='hello': must be a list"),
        (["hello"], "messages[0]='hello': must be an object"),
        ([USER, {"content": "x"}], "messages[1].role=None: must be a word"),
        ([{"role": "<|im_end|>", "content": "x"}], "messages[0].role='<|im_end|>': must be a word"),
        ([{"role": "user"}], "messages[0].content=None: must be present"),
        ([{"role": "user", "content": 3}], "messages[0].content=3: must be text"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "messages[0].content[0]={'type': 'image_url'}: must be",
        ),
        ([{"role": "user", "content": "\ud800"}], "must be valid Unicode"),
        ([{"role": "user", "content": "x", "score": float("nan")}], "messages[0].score=nan: must be a value of JSON"),
        ([{"role": "user", "content": "x", "score": 2**127}], "messages[0].score=1701"),
        ([{"role": "user", "content": "x", "a": {1: 2}}], "messages[0].a=1: must have strings"),
        ([{"role": "user", "content": "x", "a": object}], "messages[0].a=<class 'object'>: must be a value of JSON"),
        ([{"role": "a", "tool_calls": "x"}], "messages[0].tool_calls='x': must be a list"),
        ([{"role": "a", "tool_calls": [1]}], "messages[0].tool_calls[0]=1: must be an object with a function"),
        (
            [{"role": "a", "tool_calls": [{"function": {"arguments": "["}}]}],
            "arguments='[': must be an object, or JSON",
        ),
    ],
)
def test_wrong_messages(chat, messages, told):
    """The error of a wrong message names the message, the field and the rule."""
    with pytest.raises(PromptError) as caught:
        chat.prompt(messages)
    assert told in str(caught.value)
    assert caught.value.parameter.startswith("messages")


def test_deep_messages(chat):
    """Messages nested more than 32 deep are refused without recursion."""
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(PromptError, match="must be nested at most 32 deep"):
        chat.prompt([{**USER, "x": deep}])


def test_wrong_options(chat):
    """Contradictory options, an empty prompt and a text that cannot fit are errors."""
    with pytest.raises(ParameterError, match="add_generation_prompt=True: must be false or None"):
        chat.prompt([USER], add_generation_prompt=True, continue_final_message=True)
    with pytest.raises(PromptError, match=r"messages\[-1\]\.content=None: must be text"):
        chat.prompt([{"role": "a", "content": None}], continue_final_message=True)
    with pytest.raises(PromptError, match="must be shown by the chat template"):
        chat.prompt([USER], continue_final_message=True, chat_template="{{ 'x' }}")
    with pytest.raises(PromptError, match="must render to at least one character"):
        chat.prompt([USER], chat_template="{{ '' }}")
    for content in ("x" * 1000, "<|im_end|>" * 500):
        with pytest.raises(ContextLengthError, match="messages=at least"):
            chat.prompt([{"role": "user", "content": content}], max_tokens=10)


def test_chat_equals_complete(tokenizer):
    """LLM.chat equals LLM.complete of the rendered ids; without params only the context limits the reply."""
    logits = hashed_logits(seed=3)
    model = ScriptedModel(logits, tokenizer.vocab_size, max_position_embeddings=128)
    llm = LLM.from_parts(model, tokenizer)
    prompt = llm.chat_prompt([USER])
    params = SamplingParams(max_tokens=5, seed=1)
    assert llm.chat([USER], params).choices == llm.complete(prompt.token_ids, params).choices
    free = llm.chat([USER]).choices[0]
    assert free.stop_reason == tokenizer.eos_token_id or len(free.token_ids) == 128 - len(prompt.token_ids) + 1
    assert llm.chat([USER], params, add_generation_prompt=False).prompt_token_ids != prompt.token_ids


def test_without_a_tokenizer():
    """Chat without a tokenizer raises a TokenizerError."""
    llm = LLM.from_parts(ScriptedModel(hashed_logits(seed=3), 16, max_position_embeddings=8))
    with pytest.raises(TokenizerError, match="tokenizer"):
        llm.chat([USER])
