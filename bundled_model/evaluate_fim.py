"""Evaluate the exported model on gaps in the held-out files: bits per byte of the middles, and lines filled exactly.

Each gap is evaluated twice, with the text on both sides and with the text before it only. The difference is the model's
use of the suffix.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import corpus
import torch
from evaluate import bits, print_model
from export import load
from model import Llama
from torch.nn.functional import cross_entropy
from train_tokenizer import END_OF_TEXT

from examples import fill_in_the_middle, gap, line_gap, tokenizer

SEED = 7
GAPS_PER_FILE = 10
LINES_PER_FILE = 4
PIECE_LENGTH = 1000
LONGEST_LINE = 40
LINE_END = "\n"

Split = Callable[[str, random.Random], tuple[str, str, str]]


class Gap(NamedTuple):
    """Token ids of the text around a gap and of its middle, and the middle's size in bytes."""

    prefix: list[int]
    middle: list[int]
    suffix: list[int]
    size: int

    def whole(self) -> list[int]:
        """Return the prompt with prefix and suffix."""
        return fill_in_the_middle(self.prefix, [], self.suffix)[:-1]


def gaps(split: Split, per_file: int) -> list[Gap]:
    """Return non-empty gaps in random pieces of the held-out files, the same in every run."""
    found: list[Gap] = []
    for name in corpus.HELD_OUT:
        rng, text = random.Random(f"{SEED} {name}"), corpus.read(name)
        count = len(found) + per_file
        while len(found) < count:
            start = rng.randrange(max(1, len(text) - PIECE_LENGTH))
            prefix, middle, suffix = split(text[start : start + PIECE_LENGTH], rng)
            if middle.strip():
                ids = [encoding.ids for encoding in tokenizer().encode_batch([prefix, middle, suffix])]
                found.append(Gap(ids[0], ids[1], ids[2], len(middle.encode())))
    return found


def rest_of_a_line(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Return a gap of `line_gap` that ends with its first line."""
    prefix, middle, suffix = line_gap(text, rng)
    first, end, rest = middle.partition(LINE_END)
    return prefix, first, end + rest + suffix


@torch.inference_mode()
def nats(model: Llama, prompt: list[int], middle: list[int]) -> float:
    """Return minus the log-likelihood of a middle after a prompt."""
    logits = model(torch.tensor([[*prompt, *middle][:-1]]))[0, len(prompt) - 1 :]
    return cross_entropy(logits.float(), torch.tensor(middle), reduction="sum").item()


@torch.inference_mode()
def line(model: Llama, prompt: list[int]) -> tuple[str, bool]:
    """Return the model's greedy text up to the end of the line, and True if the model ended it itself."""
    written: list[int] = []
    while len(written) < LONGEST_LINE:
        token = int(model(torch.tensor([prompt + written]))[0, -1].argmax())
        if token == END_OF_TEXT:
            return tokenizer().decode(written), True
        written.append(token)
        text, end, _ = tokenizer().decode(written).partition(LINE_END)
        if end:
            return text, False
    return tokenizer().decode(written), False


def print_bits(title: str, model: Llama, split: Split) -> None:
    """Print bits per byte of the middles, with and without the suffix."""
    found = gaps(split, GAPS_PER_FILE)
    size = sum(one.size for one in found)
    both = sum(nats(model, one.whole(), one.middle) for one in found)
    before = sum(nats(model, one.prefix or [END_OF_TEXT], one.middle) for one in found)
    print(f"{title}: {len(found)} gaps, {size:,} bytes, bits per byte of the middle:")
    print(f"  prefix and suffix  {bits(both) / size:.3f}")
    print(f"  prefix alone       {bits(before) / size:.3f}", flush=True)


def print_lines(model: Llama) -> None:
    """Print the number of line endings that greedy decoding fills exactly."""
    found = gaps(rest_of_a_line, LINES_PER_FILE)
    expected = [tokenizer().decode(one.middle) for one in found]
    both = [line(model, one.whole()) for one in found]
    before = [line(model, one.prefix or [END_OF_TEXT])[0] for one in found]
    exact = sum(text == want for (text, _), want in zip(both, expected, strict=True))
    started = sum(text == want for text, want in zip(before, expected, strict=True))
    print(f"rest of a line: {len(found)} gaps, greedily, up to the end of the line:")
    print(f"  prefix and suffix  {exact} exact; {sum(ended for _, ended in both)} ended by the model before that")
    print(f"  prefix alone       {started} exact")


def main() -> None:
    """Print the figures."""
    corpus.warn_if_different()
    model = load()
    print_model(model)
    print_bits("random characters", model, gap)
    print_bits("lines", model, line_gap)
    print_lines(model)


if __name__ == "__main__":
    main()
