"""Files beside tokenizer.json: the tokens that begin and end a text, and the chat templates.

Templates are programs (Jinja). They are read as text here; decoding.chat runs them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decoding.errors import TokenizerError, shown
from decoding.json_file import read_json_object, read_regular_file

_CONFIG = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_MORE_TEMPLATES = "additional_chat_templates"
_MAX_TEMPLATE = 1 << 20
_MAX_TEMPLATES = 64


class TokenizerConfig:
    """tokenizer_config.json, checked.

    bos_token, eos_token: texts of tokens. add_bos_token, add_eos_token: True if every text gets them. None if
    the file has no such key.
    chat_templates: by name; the usual one is called "default".
    special_tokens: texts of all tokens that are named there, by the names that templates have for them.

    Raises TokenizerError naming file, key and rule.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.bos_token = self._token("bos_token")
        self.eos_token = self._token("eos_token")
        self.add_bos_token = self._flag("add_bos_token")
        self.add_eos_token = self._flag("add_eos_token")
        self.chat_templates = self._chat_templates()
        self.special_tokens = {
            key: text for key in values if key.endswith("_token") and (text := self._named_token(key)) is not None
        }

    @classmethod
    def from_folder(cls, folder: Path) -> TokenizerConfig:
        """Read the config in `folder`; templates in files of their own replace those in it."""
        try:
            path = folder / _CONFIG
            values = read_json_object(path) if os.path.lexists(path) else {}
        except ValueError as error:
            raise TokenizerError(f"{_CONFIG} {error}") from None
        templates = _template_files(folder)
        return cls(values | {"chat_template": templates} if templates else values)

    def _error(self, key: str, rule: str) -> TokenizerError:
        return TokenizerError(f"{_CONFIG}: {key}={shown(self._values[key])}: {rule}")

    def _token(self, key: str) -> str | None:
        """Return the text of a token, which may be in an object."""
        value = self._values.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if text is not None and not isinstance(text, str):
            raise self._error(key, "must be a token's text")
        return text

    def _named_token(self, key: str) -> str | None:
        """Return the text of a token that only templates use; None for another kind of value."""
        if key in ("bos_token", "eos_token"):
            return self._token(key)
        value = self._values[key]
        text = value.get("content") if isinstance(value, dict) else value
        return text if isinstance(text, str) else None

    def _flag(self, key: str) -> bool | None:
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._error(key, "must be true or false")
        return value

    def _chat_templates(self) -> dict[str, str]:
        """Return the templates by name, from one string or a list of named ones."""
        value = self._values.get("chat_template")
        if value is None:
            return {}
        named = [{"name": "default", "template": value}] if isinstance(value, str) else value
        if not isinstance(named, list) or not all(map(_is_named_template, named)):
            raise self._error("chat_template", "must be a string, or a list of objects with a name and a template")
        return {entry["name"]: entry["template"] for entry in named}


def _is_named_template(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))


def _template_files(folder: Path) -> list[dict[str, str]]:
    paths = {path.stem: path for path in sorted((folder / _MORE_TEMPLATES).glob("*.jinja"))}
    if os.path.lexists(folder / _TEMPLATE):
        paths["default"] = folder / _TEMPLATE
    if len(paths) > _MAX_TEMPLATES:
        raise TokenizerError(f"{_MORE_TEMPLATES} must have at most {_MAX_TEMPLATES} chat templates")
    return [{"name": name, "template": _read_template(path)} for name, path in paths.items()]


def _read_template(path: Path) -> str:
    try:
        return read_regular_file(path, _MAX_TEMPLATE).decode()
    except UnicodeDecodeError:
        raise TokenizerError(f"{path.name} must be UTF-8") from None
    except ValueError as error:
        raise TokenizerError(f"{path.name} {error}") from None
