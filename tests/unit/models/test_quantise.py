"""Quantisation at load time: the same bytes as the gguf package, and refused rows."""

from __future__ import annotations

import numpy as np
import pytest

from decoding.errors import ParameterError
from decoding.models.quantise import QUANTIZERS, quantize_rows


@pytest.mark.parametrize("kind", list(QUANTIZERS))
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e3])
def test_bytes_of_gguf(kind, scale):
    """Quantised blocks equal those of the gguf package, for random weights, zeros, ties and halves."""
    gguf = pytest.importorskip("gguf")
    rows = (np.random.default_rng(2).standard_normal((60, 256)) * scale).astype(np.float32)
    rows[0], rows[1, ::2] = 0, 0
    rows[2] = np.tile(np.float32([scale, -scale]), 128)
    rows[3] = np.arange(-128, 128) * np.float32(scale / 2)
    rows[4] = np.arange(256) % 16 * np.float32(scale) - np.float32(7.5 * scale)
    expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind.upper()])
    assert (quantize_rows(kind, rows) == expected).all()


@pytest.mark.parametrize("kind", list(QUANTIZERS))
def test_small_weights(kind):
    """Weights too small for a float16 scale become zeros."""
    rows = np.full((1, 64), 1e-39, np.float32)
    blocks = quantize_rows(kind, rows).reshape(2, -1)
    assert (blocks[:, :2].copy().view("<f2") == 0).all()


@pytest.mark.parametrize("kind", list(QUANTIZERS))
@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        (np.zeros((2, 48), np.float32), r"rows=float32 \[2, 48\]: must be float32 .* multiple of 32"),
        (np.zeros((2, 32)), "rows=float64"),
        (np.zeros(32, np.float32), r"rows=float32 \[32\]"),
        (np.full((1, 32), np.nan, np.float32), "rows=nan: must be finite"),
        (np.full((1, 32), -np.inf, np.float32), "rows=-inf: must be finite"),
        (np.full((1, 32), 1e9, np.float32), "rows=1e.09: must be small enough for float16 scales"),
    ],
)
def test_refused_rows(kind, rows, rule):
    """Rows of a wrong shape or type, non-finite or too large, raise a ParameterError."""
    with pytest.raises(ParameterError, match=rule):
        quantize_rows(kind, rows)


def test_refused_kind():
    """An unknown kind raises an error that lists the known ones."""
    with pytest.raises(ParameterError, match="kind='q4_k': must be one of 'q8_0', 'q4_0'"):
        quantize_rows("q4_k", np.zeros((1, 256), np.float32))
