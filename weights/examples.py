"""Turn the training files into windows of token numbers, half of them as fill-in-the-middle.

Every epoch cuts the files afresh, from a seed of its own: the model sees other
gaps each time, and a run that resumes sees the same ones as a run that did not stop.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from corpus import training_texts
from tokenizers import Tokenizer
from train_tokenizer import END_OF_TEXT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

FIM_SHARE = 0.5
# Characters of one piece of a file; the longest still fits in 1024 tokens.
PIECE_LENGTHS = (300, 3000)

Windows = npt.NDArray[np.int64]


@cache
def tokenizer() -> Tokenizer:
    """The shipped tokenizer."""
    return Tokenizer.from_file(str(Path(__file__).parent / "tokenizer.json"))


def pieces(text: str, rng: random.Random) -> Iterator[str]:
    """Cut a text into consecutive pieces of random length."""
    start = 0
    while start < len(text):
        end = start + rng.randint(*PIECE_LENGTHS)
        yield text[start:end]
        start = end


def gap(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Split a piece into prefix, middle and suffix at two random characters, inside a token or not."""
    first, second = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:first], text[first:second], text[second:]


def fill_in_the_middle(prefix: list[int], middle: list[int], suffix: list[int]) -> list[int]:
    """Prefix, suffix, then the middle: the order in which an editor asks for it."""
    return [FIM_PREFIX, *prefix, FIM_SUFFIX, *suffix, FIM_MIDDLE, *middle, END_OF_TEXT]


def document(text: str, rng: random.Random) -> tuple[list[str], list[bool]]:
    """The parts of one file to encode, and whether each belongs to a gap (those come in threes)."""
    parts: list[str] = []
    in_gap: list[bool] = []
    for piece in pieces(text, rng):
        chosen = rng.random() < FIM_SHARE
        new = gap(piece, rng) if chosen else (piece,)
        parts.extend(new)
        in_gap.extend([chosen] * len(new))
    return parts, in_gap


def encode(text: str, rng: random.Random) -> list[int]:
    """One file as tokens: plain pieces run on as they stood, each gap is an example with its own end."""
    parts, in_gap = document(text, rng)
    encoded = iter([encoding.ids for encoding in tokenizer().encode_batch(parts)])
    ids: list[int] = []
    flags = iter(in_gap)
    for is_gap, part in zip(flags, encoded, strict=False):
        if is_gap:
            ids += fill_in_the_middle(part, next(encoded), next(encoded))
            next(flags), next(flags)
        else:
            ids += part
    return [*ids, END_OF_TEXT]


def windows(seed: int, epoch: int, length: int) -> Windows:
    """One epoch: the files in random order, end to end, cut to windows of `length` + 1, shuffled."""
    rng = random.Random(f"{seed} {epoch}")
    texts = list(training_texts())
    rng.shuffle(texts)
    stream = np.array([token for text in texts for token in encode(text, rng)], dtype=np.int64)
    count = (len(stream) - 1) // length
    starts = np.arange(count) * length
    np.random.default_rng([seed, epoch]).shuffle(starts)
    cut: Windows = stream[starts[:, None] + np.arange(length + 1)]
    return cut
