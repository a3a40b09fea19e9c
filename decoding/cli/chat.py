"""`decoding chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from decoding.cli.console import CommandError, say, show_all_characters
from decoding.cli.flags import add_sampling_flags, given_parameters
from decoding.cli.model_flags import add_chat_template, add_model, load_llm, set_chat_template
from decoding.errors import DecodingError, ParameterError
from decoding.params import SamplingParams

if TYPE_CHECKING:
    from decoding.llm import LLM

_PROMPT = "> "
_ONE_REPLY = {"n": (1, "must be 1"), "echo": (False, "must be off"), "suffix": (None, "must be absent")}


def add_chat(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "chat",
        help="talk to a model",
        description="Talk to a model: every line is a message, and the reply is printed as it is generated.",
        epilog="/reset forgets the conversation, /exit or the end of the input ends it. Ctrl-C ends a reply, whose"
        " beginning stays in the conversation. All replies have one seed, which is printed to stderr at the end.",
    )
    add_model(command)
    command.add_argument("--system", metavar="TEXT", help="the system message that the conversation begins with")
    add_chat_template(command)
    command.set_defaults(run=_chat)
    add_sampling_flags(command, max_tokens=None)


def _chat(options: argparse.Namespace, _: list[str]) -> None:
    show_all_characters()
    params = SamplingParams(**{"max_tokens": None, **given_parameters(options)})
    for name, (only, rule) in _ONE_REPLY.items():
        if getattr(params, name) != only:
            raise ParameterError.single(name, getattr(params, name), f"{rule} in a conversation")
    llm = load_llm(options.model, options)
    set_chat_template(llm, options)
    conversation = Conversation(llm, params, options.system)
    conversation.check()
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    try:
        for line in _lines(is_terminal):
            _answer(conversation, line, is_terminal)
    finally:
        if conversation.params.seed is not None:
            say(f"seed: {conversation.params.seed}")


class Conversation:
    """Messages, oldest first, and the parameters of replies; the seed of the first reply is that of all."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None) -> None:
        self.params = params
        self._llm = llm
        self._start = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._start)

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = list(self._start)

    def check(self) -> None:
        """Raise the error that every message would raise, for example if the model has no template."""
        self._llm.chat_prompt([*self._start, {"role": "user", "content": "Hello"}])

    def reply(self, text: str) -> Iterator[str]:
        """Iterate over the pieces of the reply to a message; both are in the conversation once one piece has come."""
        messages = [*self.messages, {"role": "user", "content": text}]
        said = ""
        for delta in self._llm.stream(self._llm.chat_prompt(messages).token_ids, self.params):
            said += delta.text
            self.params = replace(self.params, seed=delta.seed)
            self.messages = [*messages, {"role": "assistant", "content": said}]
            yield delta.text


def _answer(conversation: Conversation, line: str, is_terminal: bool) -> None:
    """Answer one line of the input."""
    if line == "/reset":
        conversation.reset()
        return
    has_begun = False
    try:
        for piece in conversation.reply(line):
            has_begun = True
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not is_terminal:
            raise
    except DecodingError as error:
        if not is_terminal:  # a script should not go on as if nothing had been
            raise
        if has_begun:  # the message starts on a line of its own
            print()
        say(f"error: {error}")
        return
    sys.stdout.write("\n")
    sys.stdout.flush()


def _lines(is_terminal: bool) -> Iterator[str]:
    """Yield the lines of the input until its end or /exit, without empty ones."""
    for line in _typed() if is_terminal else _piped():
        if line.strip() == "/exit":
            return
        if line.strip():
            yield line.strip() if line.strip() == "/reset" else line


def _typed() -> Iterator[str]:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its line editor
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            sys.stdout.write("\n")
            return


def _piped() -> Iterator[str]:
    if sys.stdin is None:
        raise CommandError("messages from stdin: standard input is closed")
    for line in sys.stdin.buffer:
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CommandError(f"messages from stdin: must be UTF-8 (byte {error.start} of a line is not)") from None
