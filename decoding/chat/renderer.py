"""Render chat templates: the program of the renderer process, started by decoding.chat.sandbox and by nothing else.

One request per line of standard input, one answer per line of standard output, both JSON. The process imports nothing
of `decoding`. Before it reads its first template it gives up what a template could misuse: memory beyond a limit, new
files, new processes. A template that takes too long is ended by a signal, and the process with it.

A template is compiled behind one line that sets its names to literals, so that every value it sees is MiniJinja's own:
no Python object can be reached from it.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

MAX_STEPS = 10_000_000
"""Limit on the instructions of a rendering, to which the bytes of the strings that they make are added."""
MAX_BYTES = 512 << 20
"""Limit on the address space of the process; about 100 MB are in use before a template runs."""
MAX_CHARACTERS = 1 << 23
"""Limit on the characters of a rendered text."""
MAX_SECONDS = 5.0
"""Limit on the CPU time of a rendering."""

_WHITESPACE_CONTROL = r"([-+]?)\s*"
_BODY_MARKS = re.compile(rf"{{%{_WHITESPACE_CONTROL}(end)?generation\s*([-+]?)%}}")
_STRFTIME = re.compile(r"(?:%-?[A-Za-z%]|[^%])*")
_MAX_FORMAT = 256


class RefusedError(Exception):
    """The template called raise_exception."""


def literal(value: Any) -> str:
    """Return a value of JSON as an expression of a template, on one line and in ASCII."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value)


def source_with(template: str, names: Mapping[str, Any]) -> str:
    """Return a template behind a line that sets its variables.

    The `generation` tags, which only training needs, become conditions that are always true, so that whitespace
    around them is treated as around any tag.
    """
    settings = "".join(f"{{% set {name} = {literal(value)} %}}" for name, value in names.items())
    lines = template.replace("\r\n", "\n").replace("\r", "\n")
    return (f"{settings}\n" if settings else "") + _BODY_MARKS.sub(_as_condition, lines)


def _as_condition(mark: re.Match[str]) -> str:
    before, end, after = mark.groups()
    return f"{{%{before} {'endif' if end else 'if true'} {after}%}}"


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON, with the options and defaults that transformers gives this filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def is_iterable(value: Any) -> bool:
    """Return True for text, lists and mappings, as Jinja does; MiniJinja iterates over none, too."""
    return hasattr(value, "__iter__")


def strftime_now(pattern: str) -> str:
    """Return the local time in a format of plain directives; a width would let it take any amount of memory."""
    if len(pattern) > _MAX_FORMAT or not _STRFTIME.fullmatch(pattern):
        raise RefusedError(f"strftime_now: must have directives without a width, {_MAX_FORMAT} characters at most")
    return datetime.now().strftime(pattern)


def raise_exception(message: Any = "") -> None:
    """End the rendering with the template's own message."""
    raise RefusedError(str(message))


def make_environment() -> Any:
    """Return an environment with the settings, filters and functions that transformers gives chat templates."""
    from minijinja import Environment

    environment = Environment(
        fuel=MAX_STEPS,
        debug=False,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_escape_callback=lambda name: False,
        filters={"tojson": to_json},
        tests={"iterable": is_iterable},
    )
    for name, function in (("raise_exception", raise_exception), ("strftime_now", strftime_now)):
        environment.add_global(name, function)
    environment.remove_global("debug")  # shows the insides of the engine
    return environment


def answer(environment: Any, request: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of a request, or the reason why there is none: `refused` by the template, or `failed`."""
    try:
        text = environment.render_str(source_with(request["template"], request["names"]))
    except RefusedError as error:
        return {"refused": str(error)[:1000]}
    except MemoryError:
        raise
    except Exception as error:
        return {"failed": _described(error)[:1000]}
    if len(text) > MAX_CHARACTERS:
        return {"failed": f"must render at most {MAX_CHARACTERS:,} characters"}
    return {"text": text}


def _described(error: Exception) -> str:
    """Return an error of the engine without the context lines that it draws."""
    line = getattr(error, "line", None)
    place = f" (line {line - 1})" if isinstance(line, int) and line > 1 else ""
    kind, detail = getattr(error, "kind", None), getattr(error, "detail", None)
    if "out of fuel" in str(error):
        return f"must take at most {MAX_STEPS:,} steps"
    return f"{kind}: {detail}{place}" if kind and detail else f"{getattr(error, 'message', error)}{place}"


def give_up_rights() -> None:
    """Bound the memory of this process, and end its right to open files, start processes and dump its memory."""
    import resource  # not on every system on which the rest of the package can be imported

    time.localtime()  # reads the time zone's file
    for kind, limit in (
        (resource.RLIMIT_AS, MAX_BYTES),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (bound, bound))


def main(library: str) -> None:
    """Answer requests until standard input ends. library: the folder in which minijinja is installed."""
    sys.path.append(library)
    environment = make_environment()
    for template in ("{{ [1]|tojson }}{{ strftime_now('%d') }}", "{{"):  # loads what is loaded at first use
        answer(environment, {"template": template, "names": {}})
    give_up_rights()
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)  # SIGPROF ends the process
        told = answer(environment, json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(told).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
