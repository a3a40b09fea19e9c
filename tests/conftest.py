"""Fixtures for all tests."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

# The default profile is fast and has the same examples in every run; `full` searches for new ones:
#     HYPOTHESIS_PROFILE=full pytest tests/oracle tests/properties
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("quick", max_examples=60, derandomize=True, database=None, **_COMMON)
settings.register_profile("full", max_examples=5000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

_SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real models, tokenizers and published vectors beside the checkout."""
    if not _SHARED.is_dir():
        pytest.skip("needs the folder `shared` (real models, tokenizers, vectors) beside the checkout")
    return _SHARED


@pytest.fixture(autouse=True)
def _same_bits_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the seeds of requests without a seed reproducible; otherwise they come from the operating system."""
    calls = itertools.count()

    def token_bytes(count: int) -> bytes:
        return hashlib.blake2b(str(next(calls)).encode(), digest_size=count).digest()

    monkeypatch.setattr("decoding.sampling.state.secrets", SimpleNamespace(token_bytes=token_bytes))
