"""ChatFormat: messages to a prompt, by the template and the tokens of one tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from decoding.chat.control import ControlTokens, unused_marks
from decoding.chat.messages import Message, checked_messages, plain, texts_of
from decoding.chat.sandbox import Sandbox
from decoding.errors import ContextLengthError, ParameterError, PromptError, TokenizerError, shown
from decoding.text.tokenizer import Tokenizer
from decoding.validation import is_unicode

_RESERVED = ("messages", "tools", "documents", "add_generation_prompt")
_TOOL_USE = "tool_use"


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered conversation.

    text: what the template wrote. token_ids: what the model gets; no start token is added beyond the template's own.
    """

    text: str
    token_ids: list[int]


class ChatFormat:
    """Renders messages for one tokenizer (docs/chat.md).

        ChatFormat(tokenizer).prompt([{"role": "user", "content": "Hello"}]).token_ids

    Templates run in a process of their own, which the first prompt starts.
    """

    def __init__(self, tokenizer: Tokenizer, *, chat_template: str | None = None) -> None:
        """chat_template: the text of a template, in place of the tokenizer's "default"."""
        self._tokenizer = tokenizer
        self._templates = dict(tokenizer.chat_templates)
        if chat_template is not None:
            self._templates = {"default": _checked_template(chat_template, ())}
        self._sandbox = Sandbox()

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
    ) -> ChatPrompt:
        """Return the prompt of a conversation.

        messages: mappings with role and content, the oldest first.
        tools: descriptions of functions, for templates that show them to the model.
        add_generation_prompt: end with the beginning of a reply; None is True, unless the final message is continued.
        continue_final_message: end where the final message's content ends, for the model to go on with it.
        chat_template: the name of one of the tokenizer's templates, or the text of one. None is the tokenizer's own:
            "tool_use" if it has that and tools are given, otherwise "default".
        chat_template_kwargs: further names for the template, such as enable_thinking.
        max_tokens: the context; a text that cannot fit is not tokenised.

        Raises PromptError for messages that are wrong or that the template refuses; ParameterError for other arguments;
        TokenizerError if there is no template, or it is broken or does more than a template may; ContextLengthError.
        """
        checked = checked_messages(messages)
        given_tools = None if not tools else plain(tools, "tools")
        if add_generation_prompt and continue_final_message:
            rule = "must be false or None with continue_final_message: a reply cannot begin within a message"
            raise ParameterError.single("add_generation_prompt", True, rule)
        adds = not continue_final_message if add_generation_prompt is None else add_generation_prompt
        template = self._template(chat_template, has_tools=given_tools is not None)
        names = {
            **self._tokenizer.special_tokens,
            "tools": given_tools,
            "documents": None,
            **_checked_arguments(chat_template_kwargs, (*_RESERVED, *self._tokenizer.special_tokens)),
            "messages": checked,
            "add_generation_prompt": bool(adds),
        }
        text, mark, control = self._rendered(template, names, continue_final_message)
        return self._encoded(text, mark, control, max_tokens)

    def _template(self, given: str | None, *, has_tools: bool) -> str:
        templates = self._templates
        if given is not None:
            return templates[given] if given in templates else _checked_template(given, templates)
        name = _TOOL_USE if has_tools and _TOOL_USE in templates else "default"
        if name not in templates:
            others = f" (it has {', '.join(templates)})" if templates else ""
            raise TokenizerError(f"messages: this model has no default chat template{others}: give one", "messages")
        return templates[name]

    @cached_property
    def _special(self) -> ControlTokens:
        return ControlTokens(text for text, special in self._tokenizer.added_tokens.items() if special)

    @lru_cache(maxsize=8)  # noqa: B019 - a format lives as long as its model
    def _control(self, template: str) -> ControlTokens:
        """Return the special tokens, and the other added tokens that the template spells, blanks excepted."""
        added = self._tokenizer.added_tokens.items()
        return ControlTokens(text for text, special in added if special or (text.strip() and text in template))

    def _rendered(self, template: str, names: Mapping[str, Any], continues: bool) -> tuple[str, str, ControlTokens]:
        """Return the rendered text with its marks, the mark, and the control tokens that marks break up.

        Tokens that are not special, such as a <think> of the template's, are broken up, too, unless the template looks
        for them in messages: then the text would differ from the one without these marks, which is returned.
        """
        mark, end = unused_marks([template, *texts_of(dict(names))])
        special, every = self._special, self._control(template)
        with_special = self._marked(names, special, mark)
        with_every = self._marked(names, every, mark)
        text = self._text(template, with_special, end if continues else None)
        if with_every == with_special:
            return text, mark, special
        try:
            other = self._text(template, with_every, end if continues else None)
        except (PromptError, TokenizerError):  # the template misses what it looks for
            return text, mark, special
        is_same = text.replace(mark, "") == other.replace(mark, "")
        return (other, mark, every) if is_same else (text, mark, special)

    def _marked(self, names: Mapping[str, Any], control: ControlTokens, mark: str) -> dict[str, Any]:
        """Return the template's variables with marks in the texts that callers wrote.

        In the model's own words only special tokens are marked: those that are not special are its tokens.
        """

        def of_message(message: Message) -> Message:
            marks = self._special if message["role"] == "assistant" else control
            return {**marks.marked_names(message, mark), "role": message["role"]}

        marked = {
            name: value if name in self._tokenizer.special_tokens else control.marked_names(value, mark)
            for name, value in names.items()
            if name != "messages"
        }
        return {**marked, "messages": list(map(of_message, names["messages"]))}

    def _text(self, template: str, names: dict[str, Any], end: str | None) -> str:
        """Return the rendered text; with an end mark, up to the end of the final content."""
        if end is None:
            return self._sandbox.render(template, names)
        return _cut(self._sandbox.render(template, {**names, "messages": _with_end(names["messages"], end)}), end)

    def _encoded_plainly(self, text: str, control: ControlTokens, max_tokens: int | None) -> list[int] | None:
        """Return the tokenizer's ids for a text; None if it finds control tokens that the text does not spell.

        A normaliser may make some: a full-width `＜`, say, a `<`.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False, max_tokens=max_tokens)
        control_ids = {self._tokenizer.token_to_id(token) for token in control.tokens}
        return ids if sum(token_id in control_ids for token_id in ids) == control.count(text) else None

    def _encoded(self, text: str, mark: str, control: ControlTokens, max_tokens: int | None) -> ChatPrompt:
        shown_text = text.replace(mark, "")
        if not shown_text:
            raise PromptError("messages: must render to at least one character", "messages")
        try:
            ids = None if mark in text else self._encoded_plainly(text, control, max_tokens)
            if ids is None:
                ids = self._tokenizer.encode_marked(text, mark, control.tokens, max_tokens=max_tokens)
            if max_tokens is not None and len(ids) > max_tokens:
                raise ContextLengthError(len(ids), max_tokens)
        except PromptError as error:
            error.parameter = "messages"
            raise
        return ChatPrompt(shown_text, ids)


def _checked_template(template: Any, names: Iterable[str]) -> str:
    """Return the text of a template; ParameterError if it is a word, which is likely to be a wrong name."""
    if not isinstance(template, str) or "{" not in template:
        known = ", ".join(names)
        rule = "must be the text of a template, with {{ }} or {% %}" + (
            f", or one of the names {known}" if known else ""
        )
        raise ParameterError.single("chat_template", template, rule)
    if not is_unicode(template):
        raise ParameterError.single("chat_template", template, "must be valid Unicode (no lone surrogates)")
    return template


def _checked_arguments(arguments: Mapping[str, Any] | None, reserved: Sequence[str]) -> dict[str, Any]:
    given = {} if arguments is None else arguments
    if not isinstance(given, Mapping):
        raise ParameterError.single("chat_template_kwargs", given, "must be a mapping of names and values")
    for name in given:
        if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or name in reserved:
            rule = f"must be an ASCII identifier, and none of {', '.join(reserved)}"
            raise ParameterError.single("chat_template_kwargs", name, rule)
    checked: dict[str, Any] = plain(given, "chat_template_kwargs")
    return checked


def _with_end(messages: list[Message], end: str) -> list[Message]:
    """Return messages whose final content has a mark at its end, and a blank, which shows if the template trims."""
    content = messages[-1].get("content")
    if not isinstance(content, str):
        raise PromptError(f"messages[-1].content={shown(content)}: must be text, to be continued", "messages")
    return [*messages[:-1], {**messages[-1], "content": f"{content}{end} "}]


def _cut(text: str, end: str) -> str:
    """Return a rendered text up to the end of its final content, without blanks there if the template trims."""
    before, found, after = text.rpartition(end)
    if not found:
        raise PromptError("messages[-1].content: must be shown by the chat template, to be continued", "messages")
    return before if after.startswith(" ") else before.rstrip()
