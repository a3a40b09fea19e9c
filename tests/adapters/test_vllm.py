"""The plug-in for vLLM against the published interface of its logits processors; vLLM itself is not needed."""

from __future__ import annotations

import enum
import importlib
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decoding import SamplingParams
from decoding.adapters.rows import new_state
from decoding.errors import EngineError, ParameterError
from decoding.sampling.sampler import Sampler

torch = pytest.importorskip("torch", reason="needs the package torch (bash tests/adapters/run installs it)")

VOCAB_SIZE = 64


class Direction(enum.Enum):
    """The two ways to move a request in the interface."""

    UNIDIRECTIONAL = 0
    SWAP = 1


@dataclass
class Update:
    """A change of the batch in the interface."""

    batch_size: int = 0
    removed: list[int] = field(default_factory=list)
    added: list[Any] = field(default_factory=list)
    moved: list[Any] = field(default_factory=list)


@pytest.fixture
def plugin(monkeypatch):
    """Yield the module, imported with stand-ins for vLLM's modules."""
    interface = ModuleType("vllm.v1.sample.logits_processor")
    interface.LogitsProcessor = type("LogitsProcessor", (), {})
    interface.BatchUpdate, interface.MoveDirectionality = Update, Direction
    for name in ("vllm", "vllm.v1", "vllm.v1.sample"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.delitem(sys.modules, "decoding.adapters.vllm", raising=False)
    yield importlib.import_module("decoding.adapters.vllm")
    sys.modules.pop("decoding.adapters.vllm", None)


def request(**arguments):
    return SimpleNamespace(extra_args={"decoding": arguments} if arguments else None)


def rows(step, count):
    return np.random.default_rng(step).normal(size=(count, VOCAB_SIZE)).astype(np.float32)


def expected(params, prompt, logits):
    state, sampler = new_state(params, prompt), Sampler(VOCAB_SIZE)
    return [int(sampler.sample(row, [state]).token_ids[0]) for row in logits]


def test_requests_are_added_moved_and_removed(plugin):
    """A request with our processor gets the tokens that it gets alone, in any row; other requests are not changed."""
    processor = plugin.SamplerProcessor(None, torch.device("cpu"), False)
    outputs = {"a": [], "b": []}
    seen = {"a": [], "b": []}
    params = {"a": SamplingParams(seed=1, max_tokens=None), "b": SamplingParams(seed=2, top_k=5, max_tokens=None)}
    place = {"a": 0, "b": 2}
    for step in range(6):
        update = None
        if step == 0:
            added = [(0, request(seed=1), [3, 4], outputs["a"]), (1, request(), [5], [])]
            update = Update(3, added=[*added, (2, request(seed=2, top_k=5), [6], outputs["b"])])
        if step == 2:
            update = Update(3, moved=[(0, 2, Direction.SWAP)])
            place = {"a": 2, "b": 0}
        if step == 4:
            update = Update(2, removed=[1], moved=[(2, 1, Direction.UNIDIRECTIONAL)])
            place = {"a": 1, "b": 0}
        processor.update_state(update)
        logits = rows(step, 3 if step < 4 else 2)
        result = processor.apply(torch.from_numpy(logits.copy()))
        if step < 4:
            np.testing.assert_array_equal(result[1], logits[1])
        for name, row in place.items():
            seen[name].append(logits[row])
            assert torch.isfinite(result[row]).sum() == 1
            outputs[name].append(int(result[row].argmax()))
    assert outputs == {"a": expected(params["a"], [3, 4], seen["a"]), "b": expected(params["b"], [6], seen["b"])}


def test_a_preempted_request_continues(plugin):
    """A request that returns with output draws the next token of its random stream."""
    logits = rows(0, 4)
    whole = expected(SamplingParams(seed=9, max_tokens=None), [1], logits)
    processor = plugin.SamplerProcessor(None, torch.device("cpu"), False)
    processor.update_state(Update(1, added=[(0, request(seed=9), [1], whole[:3])]))
    assert int(processor.apply(torch.from_numpy(logits[3:].copy())).argmax()) == whole[3]


def test_placeholder_tokens_are_an_error(plugin):
    """Placeholder tokens of asynchronous scheduling are an error, because draws would depend on timing."""
    processor = plugin.SamplerProcessor(None, torch.device("cpu"), False)
    output = []
    processor.update_state(Update(1, added=[(0, request(seed=9), [1], output)]))
    processor.apply(torch.from_numpy(rows(0, 1)))
    output.append(-1)
    with pytest.raises(EngineError, match="asynchronous scheduling"):
        processor.apply(torch.from_numpy(rows(1, 1)))


@pytest.mark.parametrize("arguments", [{"temperature": -1.0}, {"tempreature": 1.0}, {"stop": ["x"]}])
def test_wrong_arguments_are_refused_at_once(plugin, arguments):
    """Wrong parameters are refused before vLLM accepts the request."""
    with pytest.raises(ParameterError, match=next(iter(arguments))):
        plugin.SamplerProcessor.validate_params(request(**arguments))
    plugin.SamplerProcessor.validate_params(request())
    assert not plugin.SamplerProcessor(None, None, False).is_argmax_invariant()
