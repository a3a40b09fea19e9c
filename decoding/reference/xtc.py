"""XTC, "exclude top choices": with some probability all likely tokens but the least likely one are dropped."""

from __future__ import annotations

import numpy as np

from decoding.reference.philox import XTC_DRAW, random_words
from decoding.reference.row import Row
from decoding.reference.weights import probabilities
from decoding.sampling.stages import Rule
from decoding.validation import to_float32


def apply_xtc(row: Row) -> None:
    """Drop, with xtc_probability, all tokens with p >= threshold but the last of them in the total order.

    p-e-w 2024 (text-generation-webui, pull request 6335); llama.cpp's llama_sampler_xtc. If there is only one
    such token, or none, nothing is dropped. Under Rule.XTC_TIES all that are equal to the last one stay (mlx-lm).
    """
    if not coin_falls(row):
        return
    likely = row.order[probabilities(row.logits)[row.order] >= to_float32(row.params.xtc_threshold)]
    likely = likely[row.kept[likely]]
    num_kept = 1
    if Rule.XTC_TIES in row.profile.rules and len(likely) > 0:
        num_kept = int((row.ranked[likely] == row.ranked[likely[-1]]).sum())
    row.logits = row.logits.copy()
    row.logits[likely[:-num_kept]] = -np.inf


def coin_falls(row: Row) -> bool:
    """Return True if this token's own uniform 64-bit word is below floor(probability * 2**64), which is exact."""
    place = len(row.output_token_ids)
    word, *_ = random_words(row.seed, row.stream, place, row.choice, draw_id=XTC_DRAW)
    return word < int(to_float32(row.params.xtc_probability) * 2.0**64)
