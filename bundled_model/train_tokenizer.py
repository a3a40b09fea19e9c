"""Train the byte-level BPE vocabulary on the training files and write it in Hugging Face's layout.

The pre-tokenisation pattern uses neither look-around nor Unicode classes, so every regular-expression engine splits a
text in the same way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corpus import texts_of, training_names, warn_if_different
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

HERE = Path(__file__).parent
VOCAB_SIZE = 4096

END_OF_TEXT, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX = range(4)
SPECIAL_TOKENS = ("<|endoftext|>", "<[fim-prefix]>", "<[fim-middle]>", "<[fim-suffix]>")

# A run of spaces is a piece of its own (indentation), a single space belongs to the next piece,
# and newlines are separate from indentation, so a prompt that ends in either ends at a token boundary.
PIECES = " {2,}|\n+| ?_*[A-Za-z]+| ?[0-9]{1,3}| ?[^ \nA-Za-z0-9]+| "


def untrained() -> Tokenizer:
    """Return a byte-level BPE tokenizer that decodes to exactly the encoded bytes and adds no special tokens."""
    tokenizer = Tokenizer(BPE())
    bytes_only = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = Sequence([Split(Regex(PIECES), behavior="isolated"), bytes_only])
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def train() -> Tokenizer:
    """Return a tokenizer with merges learned from the training files."""
    tokenizer = untrained()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts_of(training_names()), trainer)
    return tokenizer


def hugging_face_settings() -> dict[str, Any]:
    """Return the contents of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[END_OF_TEXT],
        "eos_token": SPECIAL_TOKENS[END_OF_TEXT],
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }


def main() -> None:
    """Write tokenizer.json and tokenizer_config.json, and print the average number of bytes per token."""
    warn_if_different()
    tokenizer = train()
    tokenizer.save(str(HERE / "tokenizer.json"))
    settings = json.dumps(hugging_face_settings(), indent=2) + "\n"
    (HERE / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    texts = list(texts_of(training_names()))
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    size = sum(len(text.encode()) for text in texts)
    print(f"vocabulary of {tokenizer.get_vocab_size()} tokens")
    print(f"training files are {tokens:,} tokens of {size / tokens:.2f} bytes on average")


if __name__ == "__main__":
    main()
