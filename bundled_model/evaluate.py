"""Print bits per byte of the exported model on the held-out files, with those of gzip and xz on the same bytes.

`python bundled_model/evaluate.py FOLDER` evaluates another version of the model.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import math
from pathlib import Path

import corpus
import torch
from export import HERE, load
from model import Llama
from torch.nn.functional import cross_entropy
from train_tokenizer import END_OF_TEXT

from examples import tokenizer


@torch.inference_mode()
def nats(model: Llama, ids: list[int]) -> float:
    """Return minus the log-likelihood of a file, each token with at least half a window of context."""
    context = model.config.max_position_embeddings
    total, scored = 0.0, 1
    while scored < len(ids):
        begin = max(0, scored - context // 2)
        window = torch.tensor([ids[begin : begin + context + 1]])
        logits = model(window[:, :-1])[0, scored - begin - 1 :]
        total += cross_entropy(logits.float(), window[0, scored - begin :], reduction="sum").item()
        scored = begin + window.shape[1]
    return total


def score(model: Llama, text: str) -> tuple[float, int]:
    """Return nats and the number of tokens of a text that starts a document."""
    ids = tokenizer().encode(text).ids
    return nats(model, [END_OF_TEXT, *ids]), len(ids)


def bits(natural: float) -> float:
    """Return nats converted to bits."""
    return natural / math.log(2)


def print_compressors(content: bytes) -> None:
    """Print bits per byte of gzip and xz, the baselines, on all bytes in one stream."""
    gzipped = gzip.compress(content, compresslevel=9)
    xzipped = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    print(f"  gzip -9  {8 * len(gzipped) / len(content):.3f}")
    print(f"  xz -9e   {8 * len(xzipped) / len(content):.3f}")


def print_model(model: Llama, folder: Path = HERE) -> None:
    """Print size, parameters and digest of the evaluated file."""
    path = folder / "model.safetensors"
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"model.safetensors  {path.stat().st_size:,} bytes, {count:,} parameters")
    print(f"sha256             {hashlib.sha256(path.read_bytes()).hexdigest()}")


def main() -> None:
    """Print a line per held-out file, and totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=HERE, help="model to judge (default: the one here)")
    folder = parser.parse_args().folder
    corpus.warn_if_different()
    model = load(folder)
    print_model(model, folder)
    texts = [corpus.read(name) for name in corpus.HELD_OUT]
    total, tokens = 0.0, 0
    for name, text in zip(corpus.HELD_OUT, texts, strict=True):
        file_nats, file_tokens = score(model, text)
        total, tokens = total + file_nats, tokens + file_tokens
        size = len(text.encode())
        print(f"{name:24} {size:7,} bytes  {bits(file_nats) / size:.3f} bits per byte", flush=True)
    everything = "".join(texts).encode()
    print(f"all {len(texts)} files: {len(everything):,} bytes, {tokens:,} tokens, bits per byte:")
    print(f"  model    {bits(total) / len(everything):.3f}  (loss {total / tokens:.3f} nats per token)")
    print_compressors(everything)


if __name__ == "__main__":
    main()
