"""Turn the training files into windows of token numbers: half of the files as they stand, half as gaps to fill.

Every epoch cuts the files afresh, from a seed of its own: the model sees other
gaps each time, and a run that resumes sees the same ones as a run that did not stop.
Each gap comes whole, with what is before and after it: an example cut apart teaches nothing. Texts that share a window
are numbered, so that none of them is read as part of another.
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
# Characters of the shortest example, and of the longest for each token of a window: most of those fit.
# Lengths between are uniform in the logarithm, so that short examples are many.
SHORTEST_EXAMPLE = 150
LONGEST_EXAMPLE = 2
# How many gaps are what an editor asks for, the rest of a line or some lines; the others are cut anywhere.
LINE_GAP_SHARE = 0.7
# How many of those end with the line that they begin in.
ONE_LINE_SHARE = 0.5

Windows = npt.NDArray[np.int64]


@cache
def tokenizer() -> Tokenizer:
    """The shipped tokenizer."""
    return Tokenizer.from_file(str(Path(__file__).parent / "tokenizer.json"))


def fill_in_the_middle(prefix: list[int], middle: list[int], suffix: list[int]) -> list[int]:
    """Suffix, prefix, then the middle, which so follows what it continues: a small network need not look far back."""
    return [FIM_SUFFIX, *suffix, FIM_PREFIX, *prefix, FIM_MIDDLE, *middle, END_OF_TEXT]


def gap(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Split a piece into prefix, middle and suffix at two random characters, inside a token or not."""
    first, second = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:first], text[first:second], text[second:]


def line_gap(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Split a piece so that the middle runs from somewhere in a line to the end of it, or of a later one.

    It begins where people stop to ask: at the line's begin, behind its indentation, or anywhere. Whole lines may come
    with the newline behind them.
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
    """One file as fill-in-the-middle examples for windows of `length` tokens, each with its end."""
    parts: list[str] = []
    for piece in pieces(text, LONGEST_EXAMPLE * length, rng):
        parts.extend(line_gap(piece, rng) if rng.random() < LINE_GAP_SHARE else gap(piece, rng))
    encoded = [encoding.ids for encoding in tokenizer().encode_batch(parts)]
    triples = zip(encoded[::3], encoded[1::3], encoded[2::3], strict=True)
    return [fill_in_the_middle(prefix, middle, suffix) for prefix, middle, suffix in triples]


class Row:
    """A window being filled: token numbers, and beside each the number of its text."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.texts: list[int] = []

    def add(self, ids: list[int], texts: list[int]) -> None:
        """Put these behind what is there."""
        self.ids += ids
        self.texts += texts


def pack(examples: list[list[int]], files: list[list[int]], length: int) -> Windows:
    """Windows of `length`: examples next to each other, whole, and each window filled up from the files.

    Returns (windows, 2, length): token numbers, and which text each belongs to.
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
    """One epoch as windows of `length` + 1 tokens, shuffled: the library, and a share of its tests, others each time.

    Each file is cut into examples or reads as it stands.
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
