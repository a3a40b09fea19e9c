"""The registry of backends and their limits."""

import sys
from typing import get_args

import pytest

from decoding import LLM
from decoding.backends.limits import Limits
from decoding.backends.model import BATCHINGS, Batching
from decoding.backends.registry import BACKENDS
from decoding.cli import model_flags
from decoding.errors import ModelNotFoundError, ParameterError
from decoding.model_loading import Backend
from decoding.models.registry import BACKENDS as OURS


def test_names_are_the_same_everywhere():
    """The type of LLM's argument, the flags and the registries have the same names."""
    assert (*OURS, *BACKENDS) == get_args(Backend) == model_flags.BACKENDS
    assert get_args(Batching) == BATCHINGS == model_flags.BATCHINGS


@pytest.mark.parametrize(
    ("backend", "package"), [("llama-cpp", "llama_cpp"), ("transformers", "torch"), ("onnxruntime", "onnxruntime")]
)
def test_a_missing_library_is_named(monkeypatch, backend, package):
    """Without the library, the error names the extra to install."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"decoding.backends.{backend.replace('-', '_')}", raising=False)
    with pytest.raises(ParameterError, match=rf"needs the package .*: pip install 'decoding-engine\[{backend}\]'"):
        LLM(backend=backend)


def test_a_missing_model_is_named_before_the_library():
    """A missing model file raises a ModelNotFoundError, even if the backend's library is missing too."""
    with pytest.raises(ModelNotFoundError, match=r"nowhere\.gguf"):
        LLM("nowhere.gguf", backend="llama-cpp")


@pytest.mark.parametrize(
    ("kv_cache_bytes", "expected"), [(10**9, 2048), (4 * 8 * 1000, 768), (4 * 8 * 256, 256), (4 * 8 * 2048, 2048)]
)
def test_context(kv_cache_bytes, expected):
    """The context is the model's, or the share of memory per sequence in whole steps, if that is smaller."""
    assert Limits(4, kv_cache_bytes).context(2048, 8, 256) == expected


def test_too_little_memory():
    """Memory for less than one step raises an error with the minimum."""
    with pytest.raises(ParameterError, match="kv_cache_bytes=8191: must be at least 8,192 for 4 sequences"):
        Limits(4, 4 * 8 * 256 - 1).context(2048, 8, 256)
