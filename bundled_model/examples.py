"""Turn the training files into windows of token ids: half of the files whole, half as gaps to fill.

Every epoch cuts the files anew, with its own seed: the model sees other gaps each time, and a resumed run sees the same
gaps as an uninterrupted one. Each example is in a window as a whole, with the text on both sides, because a cut example
teaches nothing. Texts in a window are numbered, so that none is read as part of another.
"""

from __future__ import annotations

import itertools
import math
import random
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from corpus import test_names, texts_of, training_names
from tokenizers import Tokenizer
from train_tokenizer import END_OF_TEXT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

FIM_SHARE = 0.5
# Characters of the shortest example, and of the longest per token of a window, so that most of them fit.
# Lengths are log-uniform in between, so that most examples are short.
SHORTEST_EXAMPLE = 150
LONGEST_EXAMPLE = 2
# Share of gaps like those of an editor: the rest of a line or a few lines. The others are cut at random.
LINE_GAP_SHARE = 0.7
# Share of these gaps that end with the line in which they begin.
ONE_LINE_SHARE = 0.5

Windows = npt.NDArray[np.int64]


@cache
def tokenizer() -> Tokenizer:
    """Return the shipped tokenizer."""
    return Tokenizer.from_file(str(Path(__file__).parent / "tokenizer.json"))


def fill_in_the_middle(prefix: list[int], middle: list[int], suffix: list[int]) -> list[int]:
    """Return suffix, prefix and middle as one text. The middle follows its prefix, so a small network has it nearby."""
    return [FIM_SUFFIX, *suffix, FIM_PREFIX, *prefix, FIM_MIDDLE, *middle, END_OF_TEXT]


def gap(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Split a piece into prefix, middle and suffix at two random characters, which may be inside tokens."""
    first, second = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:first], text[first:second], text[second:]


def line_gap(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Split a piece so that the middle runs from a position in a line to the end of this or a later line.

    It starts at a typical cursor position: at the begin of the line, behind its indentation, or anywhere. Whole lines
    may include the newline after them.
    """
    lines = text.split("\n")
    first = rng.choice([number for number, line in enumerate(lines) if line.strip()] or [0])
    more = 0 if rng.random() < ONE_LINE_SHARE else 1 + int(rng.expovariate(0.5))
    count = min(1 + more, len(lines) - first)
    before = sum(len(line) + 1 for line in lines[:first])
    indentation = len(lines[first]) - len(lines[first].lstrip(" "))
    column = rng.choice((0, indentation, rng.randint(0, len(lines[first]))))
    end = before + len("\n".join(lines[first : first + count]))
    if column == 0 and rng.random() < 0.5:
        end += 1
    return text[: before + column], text[before + column : end], text[end:]


def pieces(text: str, longest: int, rng: random.Random) -> list[str]:
    """Cut a text into consecutive pieces of SHORTEST_EXAMPLE to `longest` characters."""
    found: list[str] = []
    start = 0
    while start < len(text):
        end = start + round(math.exp(rng.uniform(math.log(SHORTEST_EXAMPLE), math.log(longest))))
        found.append(text[start:end])
        start = end
    return found


def examples(text: str, length: int, rng: random.Random) -> list[list[int]]:
    """Return a file as fill-in-the-middle examples for windows of `length` tokens, each with its end token."""
    parts: list[str] = []
    for piece in pieces(text, LONGEST_EXAMPLE * length, rng):
        parts.extend(line_gap(piece, rng) if rng.random() < LINE_GAP_SHARE else gap(piece, rng))
    encoded = [encoding.ids for encoding in tokenizer().encode_batch(parts)]
    triples = zip(encoded[::3], encoded[1::3], encoded[2::3], strict=True)
    return [fill_in_the_middle(prefix, middle, suffix) for prefix, middle, suffix in triples]


class Row:
    """A window to fill: token ids, and the number of the text of each token."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.texts: list[int] = []

    def add(self, ids: list[int], texts: list[int]) -> None:
        """Append token ids and their text numbers."""
        self.ids += ids
        self.texts += texts


def pack(examples: list[list[int]], files: list[list[int]], length: int) -> Windows:
    """Return windows of `length`: whole examples side by side, each window filled up from the files.

    The shape is (windows, 2, length): token ids, and the number of the text that each belongs to.
    """
    stream = list(itertools.chain(*files))
    texts = list(itertools.chain(*([number] * len(ids) for number, ids in enumerate(files))))
    rows: list[Row] = [Row()]
    used = 0
    for number, example in enumerate(examples):
        missing = length - len(rows[-1].ids)
        if len(example) > missing:
            rows[-1].add(stream[used : used + missing], texts[used : used + missing])
            used += missing
            rows.append(Row())
        rows[-1].add(example, [-1 - number] * len(example))
    rows[-1].add(stream[used:], texts[used:])
    last = rows.pop()
    filled = [[row.ids, row.texts] for row in rows if len(row.ids) == length]
    for start in range(0, len(last.ids) - length + 1, length):
        filled.append([last.ids[start : start + length], last.texts[start : start + length]])
    return np.array(filled, dtype=np.int64)


def windows(seed: int, epoch: int, length: int, tests: float) -> Windows:
    """Return an epoch as shuffled windows of `length` + 1 tokens: the library, and a random share of its tests.

    Each file is either cut into examples or whole.
    """
    rng = random.Random(f"{seed} {epoch}")
    all_tests = test_names()
    texts = list(texts_of(training_names() + rng.sample(all_tests, round(tests * len(all_tests)))))
    rng.shuffle(texts)
    whole: list[list[int]] = []
    files: list[list[int]] = []
    for text in texts:
        if rng.random() < FIM_SHARE:
            whole += [ids for ids in examples(text, length, rng) if len(ids) <= length + 1]
        else:
            files.append([END_OF_TEXT, *tokenizer().encode(text).ids, END_OF_TEXT])
    rng.shuffle(whole)
    rows = pack(whole, files, length + 1)
    np.random.default_rng([seed, epoch]).shuffle(rows)
    return rows
