"""Train the byte-level BPE vocabulary on the training files and write it in Hugging Face's layout.

The pre-tokenisation pattern uses neither look-around nor Unicode classes, so
that every regular-expression engine cuts the text in the same places.
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

# A run of spaces is indentation and stands alone, a single space belongs to what follows it,
# and newlines are apart from indentation: a prompt that ends in either then ends between tokens.
PIECES = " {2,}|\n+| ?_*[A-Za-z]+| ?[0-9]{1,3}| ?[^ \nA-Za-z0-9]+| "


def untrained() -> Tokenizer:
    """A byte-level BPE tokenizer that decodes to exactly the bytes it encoded, and adds no tokens itself."""
    tokenizer = Tokenizer(BPE())
    bytes_only = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = Sequence([Split(Regex(PIECES), behavior="isolated"), bytes_only])
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def train() -> Tokenizer:
    """Learn the merges from the training files alone."""
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
    """What tokenizer_config.json says about the file beside it."""
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
    """Write tokenizer.json and tokenizer_config.json, and print how well the vocabulary packs the files."""
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
