"""Sandbox: the process in which templates are rendered, seen from this side.

A template is a program by a stranger. MiniJinja bounds its steps; its memory and its time are bounded
in a process of its own (decoding.chat.renderer), which is replaced if a template has ended it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from decoding.chat.renderer import MAX_BYTES, MAX_SECONDS
from decoding.errors import PromptError, TokenizerError, shown

_MAX_REQUEST = 1 << 24
_PATIENCE = 60.0
"""Seconds after which a renderer that does not answer is ended; its own limits come first on any usable machine."""
_MISSING = "chat needs the package minijinja: pip install 'decoding-engine[chat]'"


class Sandbox:
    """Renders templates in another process, one at a time; safe to call from several threads.

    The process is started by the first call, and ends with this object.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: Callable[[], object] = _nothing

    def render(self, template: str, names: Mapping[str, Any]) -> str:
        """Return the text of a template with these names, whose values are those of JSON.

        Raises PromptError with the template's own message if it refuses the messages; TokenizerError if it is broken,
        or takes more steps, memory or time than a template may.
        """
        request = json.dumps({"template": template, "names": names}).encode() + b"\n"
        if len(request) > _MAX_REQUEST:
            rule = f"must have at most {_MAX_REQUEST:,} bytes with the template, as JSON"
            raise PromptError(f"messages={len(request):,} bytes: {rule}", "messages")
        with self._lock:
            try:
                told = self._ask(request)
            except BaseException:  # an interrupt, too, would leave an answer that belongs to no request
                self._end()
                raise
        if "refused" in told:
            raise PromptError(f"messages: the chat template refuses them: {shown(told['refused'])}", "messages")
        if "failed" in told:
            raise _failure(told["failed"])
        return told["text"]

    def close(self) -> None:
        """End the process; the next call starts another."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes) -> dict[str, str]:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
            line = _read_line(process.stdout.fileno())
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise _failure(self._cause(process))
        told: dict[str, str] = json.loads(line)
        return told

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the process, a new one if there is none or it has ended."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _start()
            self._stop = weakref.finalize(self, _stop, self._process, os.getpid())
        return self._process

    def _cause(self, process: subprocess.Popen[bytes]) -> str:
        """Return the rule that a template broke when it ended the process."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        status = process.poll()
        self._end()
        if status is None or status == -signal.SIGPROF:
            return f"must take at most {MAX_SECONDS:g} s of CPU time"
        return f"must need at most {MAX_BYTES >> 20} MB of memory"

    def _end(self) -> None:
        self._stop()
        self._process = None


def _nothing() -> None:
    """Do nothing: there is no process to end yet."""


def _start() -> subprocess.Popen[bytes]:
    """Start a renderer: isolated, without the environment, and out of reach of the terminal's interrupts."""
    found = importlib.util.find_spec("minijinja")
    if found is None or found.origin is None:
        raise TokenizerError(_MISSING, "messages")
    program, library = Path(__file__).with_name("renderer.py"), Path(found.origin).parent.parent
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(program), str(library)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TZ") if name in os.environ},
        start_new_session=True,
    )


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a renderer; in a fork of the process that started it, leave it alone."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # a request that was not read
                pipe.close()


def _read_line(descriptor: int) -> bytes:
    """Return the renderer's answer; without a newline at its end if the renderer has ended or does not answer."""
    pieces: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not (pieces and pieces[-1].endswith(b"\n")):
            piece = os.read(descriptor, 1 << 16) if selector.select(_PATIENCE) else b""
            if not piece:
                break
            pieces.append(piece)
    return b"".join(pieces)


def _failure(rule: str) -> TokenizerError:
    return TokenizerError(f"chat template: {rule}", "messages")
