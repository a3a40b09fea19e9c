"""The properties of a batch's tokens, and batches that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from decoding.errors import ContextLengthError, ParameterError
from decoding.models import BLOCK_SIZE, load_model
from decoding.models.native_plan import KV_BLOCK


def _ints(*values: int) -> Any:
    return np.array(values, np.int32)


def test_block_size_agrees_with_the_c_library() -> None:
    """Engine, reference and C kernel have the same block size."""
    assert BLOCK_SIZE == KV_BLOCK


@pytest.fixture
def batch(runs: Any) -> Any:
    """Return a batch of a prompt of 20 tokens, a chunk of 3 after 14, and a decoding token."""
    return runs.make_batch(
        runs.Row([1] * 20, 0, [4, 2], 20), runs.Row([2, 3, 4], 14, [0, 1], 30), runs.Row([5], 40, [3, 5, 6, 7])
    )


def test_positions_and_lengths(batch: Any) -> None:
    """Positions continue from `start`; a token's length is rope_length or its position + 1, whichever is larger."""
    assert batch.positions.tolist() == [*range(20), 14, 15, 16, 40]
    assert batch.token_lengths.tolist() == [20] * 20 + [30] * 3 + [41]
    assert batch.ends == [20, 17, 41]


def test_positions_of_decoding_tokens(runs: Any) -> None:
    """With one token per sequence the positions are the starts."""
    batch = runs.make_batch(*(runs.Row([1], start, range(9), 7) for start in (3, 99, 0)))
    assert batch.positions.tolist() == [3, 99, 0]
    assert batch.token_lengths.tolist() == [7, 100, 7]


@pytest.mark.parametrize(
    ("parameter", "changes"),
    [
        ("token_ids", {"token_ids": _ints(*[1] * 23, 19)}),
        ("token_ids", {"token_ids": _ints(*[1] * 23, -1)}),
        ("block_tables", {"block_tables": [_ints(4, 8), _ints(0, 1), _ints(3, 5, 6)]}),
        ("block_tables", {"block_tables": [_ints(4, 2), _ints(-1, 1), _ints(3, 5, 6)]}),
        ("block_tables[2]", {"block_tables": [_ints(4, 2), _ints(0, 1), _ints(3, 5)]}),
        ("start", {"start": _ints(0, -1, 40)}),
        ("num_new", {"num_new": _ints(20, 2, 1)}),
        ("num_new", {"num_new": _ints(20, 4, 0)}),
        ("num_new", {"num_new": _ints(20, 4)}),
        ("num_new", {"start": _ints(0, 14)}),
        ("num_new", {"rope_lengths": _ints(1, 2, 3, 4)}),
        ("num_new", {"block_tables": [_ints(4, 2)]}),
        ("logits_tokens", {"logits_tokens": _ints(0, 24)}),
        ("logits_tokens", {"logits_tokens": _ints(-1, 3)}),
        ("logits_tokens", {"logits_tokens": _ints(3, 3)}),
        ("logits_tokens", {"logits_tokens": _ints(5, 3)}),
        (
            "num_new",
            dict.fromkeys(("token_ids", "num_new", "start", "rope_lengths", "logits_tokens"), _ints())
            | {"block_tables": []},
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(
    workshop: Any, backend: str, batch: Any, parameter: str, changes: dict[str, Any]
) -> None:
    """Ids, blocks and lengths out of range raise a ParameterError that names the array."""
    model = load_model(workshop.checkpoint(), backend=backend)
    cache = model.new_cache(8)
    assert model.forward(batch, cache).shape == (3, 19)
    with pytest.raises(ParameterError) as caught:
        model.forward(replace(batch, **changes), cache)
    assert caught.value.problems[0].parameter == parameter


def test_the_context_is_a_hard_limit(workshop: Any, backend: str, runs: Any) -> None:
    """A sequence may fill the context to its last position; one more token raises a ContextLengthError."""
    model = load_model(workshop.checkpoint(), backend=backend)
    cache, table = model.new_cache(11), range(11)
    assert model.forward(runs.make_batch(runs.Row([3] * 160, 0, table)), cache).shape == (1, 19)
    with pytest.raises(ContextLengthError, match="161 tokens"):
        model.forward(runs.make_batch(runs.Row([3], 160, table)), cache)


@pytest.mark.parametrize("num_blocks", [0, -1, 1.0, True, None, 2**31])
def test_a_cache_has_at_least_one_block(workshop: Any, backend: str, num_blocks: Any) -> None:
    """num_blocks must be a positive 32-bit integer."""
    model = load_model(workshop.checkpoint(), backend=backend)
    with pytest.raises(ParameterError, match="num_blocks"):
        model.new_cache(num_blocks)


def test_a_cache_that_the_system_refuses(workshop: Any) -> None:
    """A cache larger than the address space raises an error with the number of bytes."""
    model = load_model(workshop.checkpoint())
    with pytest.raises(ParameterError, match="bytes, which the system refuses"):
        model.new_cache(2**31 - 1).copy_block(0, 1)


def test_a_cache_of_another_model_is_refused(workshop: Any, runs: Any) -> None:
    """A cache of another model, whose blocks have another size, is refused."""
    model, other = load_model(workshop.checkpoint()), load_model(workshop.checkpoint(num_hidden_layers=3))
    with pytest.raises(ParameterError, match="must be a cache of this model"):
        model.forward(runs.make_batch(runs.Row([1])), other.new_cache(1))


@pytest.mark.parametrize("name", ["Native", "", None, 3])
def test_an_unknown_backend(workshop: Any, name: Any) -> None:
    """An unknown backend raises an error that lists the known ones."""
    with pytest.raises(ParameterError, match=r"backend=.*: must be one of 'native', 'numpy'"):
        load_model(workshop.checkpoint(), backend=name)


@pytest.mark.parametrize("num_threads", [0, -1, 1.0, True, "2", 1025])
def test_num_threads_out_of_range(workshop: Any, num_threads: Any) -> None:
    """num_threads must be an integer from 1 to 1,024."""
    with pytest.raises(ParameterError, match=r"num_threads=.*: must be an integer from 1 to 1024"):
        load_model(workshop.checkpoint(), num_threads=num_threads)
