"""A template is untrusted code: the sandbox bounds its time and memory, and gives it no files and no Python objects."""

import os
import signal
import sys
import threading

import pytest

from decoding.chat import renderer, sandbox
from decoding.chat.sandbox import Sandbox
from decoding.errors import PromptError, TokenizerError

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def box():
    """Return one renderer for the module, which restarts if a template has ended it."""
    one = Sandbox()
    yield one
    one.close()


def render(box, template):
    """Render a template with one message."""
    return box.render(template, {"messages": MESSAGES})


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "10,000,000 steps"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit"),
        ("{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "must"),
        ("{{ 'x' * 100000000000 }}", "must"),
        ("{{ '%999999999d' | format(1) }}", "must"),
        ("{{ '{:>9999999999}'.format(1) }}", "must need at most 512 MB"),
        ("{{ 'x' * 9000000 }}", "at most 8,388,608 characters"),
        ("{{ [[[[ }}", "line 1"),
        ("\n\n{{ 1 / 0 }}", "line 3"),
        ("{{ " + "(" * 100000 + ")" * 100000 + " }}", "recursion limits"),
        ("{% include '/etc/passwd' %}", "TemplateNotFound"),
        ("{% import 'os' as os %}{{ os }}", "TemplateNotFound"),
        ("{{ open('/etc/passwd') }}", "UnknownFunction"),
        ("{{ debug() }}", "UnknownFunction"),
        ("{{ messages.append(1) }}", "UnknownMethod"),
        ("{{ messages[0].update({}) }}", "UnknownMethod"),
        ("{{ raise_exception.__globals__.x }}", "undefined value"),
    ],
)
def test_bounds(box, template, rule):
    """Endless loops, huge strings, files and unknown functions are errors, and the next rendering works."""
    with pytest.raises(TokenizerError, match=rule) as caught:
        render(box, template)
    assert str(caught.value).startswith("chat template: ")
    assert caught.value.parameter == "messages"
    assert render(box, "{{ messages[0].content }}") == "Hello"


@pytest.mark.parametrize("name", ["__class__", "__init__", "__globals__", "__subclasses__", "_x", "mro"])
def test_python_attributes_are_undefined(box, name):
    """No value has Python's attributes, whatever syntax asks for them."""
    values = ("messages", "messages[0]", "messages[0].content", "raise_exception", "''", "1", "range", "namespace()")
    for value in values:
        assert render(box, f"{{{{ {value}.{name} }}}}{{{{ {value}['{name}'] }}}}{{{{ {value}|attr('{name}') }}}}") == ""


def test_raise_exception_is_a_prompt_error(box):
    """raise_exception becomes a PromptError with the template's message."""
    with pytest.raises(PromptError, match="the chat template refuses them: 'no such role'") as caught:
        render(box, "{{ raise_exception('no such role') }}")
    assert caught.value.parameter == "messages"


@pytest.mark.slow
def test_the_time_of_a_rendering_is_bounded(box):
    """The CPU time limit ends a template that doubles a list without counted steps."""
    template = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}"
    with pytest.raises(TokenizerError, match="5 s of CPU time"):
        render(box, template)


def test_limits_of_the_process(box):
    """The renderer can open no file, start no process and write no file, and its memory is limited."""
    render(box, "x")
    with open(f"/proc/{box._process.pid}/limits") as file:
        limits = {line[:26].strip(): line[26:].split()[:2] for line in file}
    assert limits["Max open files"] == ["3", "3"]
    assert limits["Max processes"] == ["0", "0"]
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max address space"] == [str(renderer.MAX_BYTES)] * 2
    with open(f"/proc/{box._process.pid}/environ") as file:
        assert not {"HOME", "PATH", "PYTHONPATH"} & {entry.partition("=")[0] for entry in file.read().split("\0")}


def test_a_renderer_that_was_killed_is_replaced(box):
    """A killed renderer is replaced at the next request."""
    render(box, "x")
    os.kill(box._process.pid, signal.SIGKILL)
    box._process.wait()
    assert render(box, "{{ messages[0].content }}") == "Hello"


def test_threads_share_a_renderer(box):
    """Concurrent requests to one renderer get their own answers."""
    wrong = []

    def work(number):
        for count in range(20):
            text = box.render("{{ n }}", {"n": f"{number}-{count}"})
            if text != f"{number}-{count}":
                wrong.append(text)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_request_is_bounded(box):
    """Messages of more than 16 MB are refused."""
    with pytest.raises(PromptError, match="must have at most 16,777,216 bytes"):
        box.render("x", {"messages": "x" * (1 << 24)})


def test_without_the_extra(monkeypatch):
    """Without minijinja the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "minijinja", None)
    monkeypatch.setattr(sandbox.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TokenizerError, match=r"pip install 'decoding-engine\[chat\]'"):
        Sandbox().render("x", {})
