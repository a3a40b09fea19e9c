"""Fixtures of the chat tests: a small tokenizer with control tokens of every kind, and a chat format for it."""

import json

import pytest

from decoding.chat import ChatFormat
from decoding.text.tokenizer import Tokenizer
from decoding.text.tokenizer_config import TokenizerConfig

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

ADDED = {"<|im_start|>": True, "<|im_end|>": True, "<think>": False, "</think>": False, "  ": False}
"""Added tokens, with True for special ones; the last one is a run of blanks, as some vocabularies have them."""


def make_tokenizer(template=CHATML, added=ADDED, normalizer=None, normalized=False, **config):
    """Return a tokenizer over all bytes with added tokens and a chat template."""
    alphabet = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    vocabulary = {text: index for index, text in enumerate([*alphabet, *added])}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": vocabulary[text],
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": normalized,
                "special": special,
            }
            for text, special in added.items()
        ],
        "normalizer": normalizer,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    values = {"chat_template": template, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", **config}
    return Tokenizer(json.dumps(document).encode(), TokenizerConfig(values))


@pytest.fixture(scope="session", name="make_tokenizer")
def _make_tokenizer():
    """Return the function make_tokenizer."""
    return make_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """Return the tokenizer with the ChatML template."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def chat(tokenizer):
    """Return the format of that tokenizer, whose renderer runs for the whole session."""
    return ChatFormat(tokenizer)
