"""Print samples of the exported model: greedy, sampled, and filled into a gap.

This is a demonstration, not an engine: it computes the whole text again for each token.
"""

from __future__ import annotations

import torch
from export import load
from model import Llama
from train_tokenizer import END_OF_TEXT

from examples import fill_in_the_middle, tokenizer

PROMPTS = (
    "def fibonacci(n):\n",
    "import os\n\n\ndef read_file(path):\n",
    "class Stack:\n    def __init__(self):\n",
)
PREFIX = '    def close(self):\n        """Close the file."""\n        if self._file is not None:\n'
SUFFIX = "            self._file = None\n\n    def __enter__(self):\n        return self\n"
TEMPERATURE = 0.7
SEED = 1


@torch.inference_mode()
def continuation(model: Llama, ids: list[int], temperature: float, length: int = 80) -> str:
    """Return up to `length` tokens after `ids`; temperature 0 is greedy."""
    generator = torch.Generator().manual_seed(SEED)
    written = list(ids)
    while len(written) < len(ids) + length:
        logits = model(torch.tensor([written]))[0, -1]
        if temperature > 0:
            choice = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        else:
            choice = logits.argmax()
        if choice.item() == END_OF_TEXT:
            break
        written.append(int(choice.item()))
    return tokenizer().decode(written[len(ids) :])


def show(title: str, before: str, written: str, after: str = "") -> None:
    """Print a sample, with the model's text between marks."""
    print(f"--- {title}\n{before}«{written}»{after}\n")


def main() -> None:
    """Print every sample."""
    model = load()
    for prompt in PROMPTS:
        ids = [END_OF_TEXT, *tokenizer().encode(prompt).ids]
        show("greedy", prompt, continuation(model, ids, 0.0))
        show(f"temperature {TEMPERATURE}, seed {SEED}", prompt, continuation(model, ids, TEMPERATURE))
    prefix, suffix = (tokenizer().encode(text).ids for text in (PREFIX, SUFFIX))
    ids = fill_in_the_middle(prefix, [], suffix)[:-1]
    show("fill in the middle, greedy", PREFIX, continuation(model, ids, 0.0), SUFFIX)


if __name__ == "__main__":
    main()
