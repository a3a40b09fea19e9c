"""Turn the training files into windows of token numbers, half of them as fill-in-the-middle.

Every epoch cuts the files afresh, from a seed of its own: the model sees other
gaps each time, and a run that resumes sees the same ones as a run that did not stop.

There are two ways.  `windows` cuts one long stream, cheap to learn a language from at any
length.  `packed_windows` keeps each example whole, which is what filling in is learned from.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
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
# Whole examples are shorter, so that there are more of them; their lengths are uniform in the logarithm.
EXAMPLE_LENGTHS = (150, 1500)
# Of their gaps, how many are what an editor asks for: the rest of a line, or some lines.
LINE_GAP_SHARE = 0.7

Windows = npt.NDArray[np.int64]


@cache
def tokenizer() -> Tokenizer:
    """The shipped tokenizer."""
    return Tokenizer.from_file(str(Path(__file__).parent / "tokenizer.json"))


def pieces(text: str, length: Callable[[], int]) -> Iterator[str]:
    """Cut a text into consecutive pieces, each as long as `length` says."""
    start = 0
    while start < len(text):
        end = start + length()
        yield text[start:end]
        start = end


def gap(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Split a piece into prefix, middle and suffix at two random characters, inside a token or not."""
    first, second = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:first], text[first:second], text[second:]


def fill_in_the_middle(prefix: list[int], middle: list[int], suffix: list[int]) -> list[int]:
    """Suffix, prefix, then the middle, which so follows what it continues: a small network need not look far back."""
    return [FIM_SUFFIX, *suffix, FIM_PREFIX, *prefix, FIM_MIDDLE, *middle, END_OF_TEXT]


def document(text: str, rng: random.Random) -> tuple[list[str], list[bool]]:
    """The parts of one file to encode, and whether each belongs to a gap (those come in threes)."""
    parts: list[str] = []
    in_gap: list[bool] = []
    for piece in pieces(text, lambda: rng.randint(*PIECE_LENGTHS)):
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


def line_gap(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Split a piece so that the middle runs from inside a line to the end of it, or of a later one."""
    lines = text.split("\n")
    first = rng.choice([number for number, line in enumerate(lines) if line.strip()] or [0])
    count = min(1 + int(rng.expovariate(0.5)), len(lines) - first)
    before = sum(len(line) + 1 for line in lines[:first])
    indentation = len(lines[first]) - len(lines[first].lstrip(" "))
    column = indentation if rng.random() < 0.5 else rng.randint(0, len(lines[first]))
    end = before + len("\n".join(lines[first : first + count]))
    return text[: before + column], text[before + column : end], text[end:]


def whole_examples(text: str, rng: random.Random) -> list[list[int]]:
    """One file as fill-in-the-middle examples, each with its end."""
    shortest, longest = map(math.log, EXAMPLE_LENGTHS)
    parts: list[str] = []
    for piece in pieces(text, lambda: round(math.exp(rng.uniform(shortest, longest)))):
        parts.extend(line_gap(piece, rng) if rng.random() < LINE_GAP_SHARE else gap(piece, rng))
    encoded = [encoding.ids for encoding in tokenizer().encode_batch(parts)]
    triples = zip(encoded[::3], encoded[1::3], encoded[2::3], strict=True)
    return [fill_in_the_middle(prefix, middle, suffix) for prefix, middle, suffix in triples]


def pack(examples: list[list[int]], stream: list[int], length: int) -> Windows:
    """Windows of `length`: examples next to each other, whole, and each window filled up from the stream."""
    rows: list[list[int]] = []
    row: list[int] = []
    used = 0
    for example in examples:
        if len(row) + len(example) > length:
            missing = length - len(row)
            rows.append(row + stream[used : used + missing])
            row, used = [], used + missing
        row += example
    rest = [*row, *stream[used:]]
    rows += [rest[start : start + length] for start in range(0, len(rest) - length + 1, length)]
    return np.array(rows, dtype=np.int64)


def packed_windows(seed: int, epoch: int, length: int) -> Windows:
    """One epoch in which each file is either cut into whole examples or read as it stands; `length` + 1 as above."""
    rng = random.Random(f"{seed} {epoch}")
    texts = list(training_texts())
    rng.shuffle(texts)
    examples: list[list[int]] = []
    stream: list[int] = []
    for text in texts:
        if rng.random() < FIM_SHARE:
            examples += [ids for ids in whole_examples(text, rng) if len(ids) <= length + 1]
        else:
            stream += [END_OF_TEXT, *tokenizer().encode(text).ids]
    rng.shuffle(examples)
    rows = pack(examples, stream, length + 1)
    np.random.default_rng([seed, epoch]).shuffle(rows)
    return rows
