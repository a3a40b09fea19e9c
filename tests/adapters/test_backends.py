"""Other libraries' forward passes in our engine: LLM, speculation, batching and the server."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from decoding import LLM, SamplingParams
from decoding.conformance import run_conformance
from decoding.errors import ModelError, ParameterError
from decoding.model_loading import bundled_model_folder

BACKENDS = ("llama-cpp", "transformers", "onnxruntime")
PROMPTS = ["Once upon a time, there was a little girl who", "def add(a, b):", "The sun", "Once upon a time, there"]
SETTINGS = {"num_threads": 1, "max_num_seqs": 4, "kv_cache_bytes": 2**28}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    """Return the name of each backend in turn."""
    return request.param


@pytest.fixture(scope="module")
def llm(backend, model_of):
    """Return the model of a backend."""
    return LLM(model_of(backend), backend=backend, **SETTINGS)


def wanted(**fields):
    defaults = {"max_tokens": 12, "temperature": 0.9, "logprobs": 2, "echo": True}
    return [SamplingParams(**defaults | {"seed": seed} | fields) for seed in range(len(PROMPTS))]


def bits(result):
    return [(choice.token_ids, choice.logprobs, choice.finish_reason) for choice in result.choices]


def test_batching_changes_no_bit(llm):
    """A request gives the same bits alone, in a batch, from the prefix cache, and as one of three candidates."""
    together = [bits(result) for result in llm.complete(PROMPTS, wanted())]
    alone = [bits(llm.complete(prompt, params)) for prompt, params in zip(PROMPTS, wanted(), strict=True)]
    candidates = llm.complete(PROMPTS, wanted(n=3))
    assert together == alone
    assert [bits(result)[:1] for result in candidates] == alone


def test_speculation_changes_no_bit(llm, backend, model_of):
    """Draft tokens give the tokens and log-probabilities of plain decoding."""
    drafting = LLM(model_of(backend), backend=backend, speculation="prompt_lookup", **SETTINGS)
    text, params = "a b c d a b c d a b c d a b", SamplingParams(max_tokens=16, temperature=0.0, logprobs=1)
    assert bits(drafting.complete(text, params)) == bits(llm.complete(text, params))
    assert drafting.stats.num_accepted_tokens > 0


def test_shared_batching_is_as_close_as_float_rounding(llm, backend, model_of):
    """One call per step gives the log-probabilities of one call per sequence, up to rounding."""
    shared = LLM(model_of(backend), backend=backend, batching="shared", **SETTINGS)
    for first, second in zip(llm.complete(PROMPTS, wanted()), shared.complete(PROMPTS, wanted()), strict=True):
        count = first.usage.prompt_tokens
        one, other = (result.choices[0].logprobs.token_logprobs[1:count] for result in (first, second))
        np.testing.assert_allclose(one, other, atol=0.2 if backend == "llama-cpp" else 1e-3)


@pytest.mark.parametrize("name", ["transformers", "onnxruntime"])
def test_logits_equal_our_own_pass(name, model_of):
    """The same weights give our own forward pass's logits, up to rounding."""
    theirs = LLM(model_of(name), backend=name, **SETTINGS)
    ours = LLM(bundled_model_folder(), num_threads=1)
    token_ids = ours.tokenizer.encode("Once upon a time there was a fox, and it lived in a very large forest.")
    assert theirs.tokenizer.encode("Once upon a time") == ours.tokenizer.encode("Once upon a time")
    np.testing.assert_allclose(theirs.logits(token_ids), ours.logits(token_ids), atol=2e-3)


def test_logits_of_a_gguf_file(gguf_file):
    """llama.cpp's logits of a quantised file agree with ours as far as its quantised activations allow."""
    theirs, ours = LLM(gguf_file, backend="llama-cpp", **SETTINGS), LLM(gguf_file, num_threads=1)
    token_ids = ours.tokenizer.encode("The capital of France is Paris, and")
    one, other = theirs.logits(token_ids), ours.logits(token_ids)
    assert np.corrcoef(one[-1], other[-1])[0, 1] > 0.99
    assert theirs.complete(token_ids, SamplingParams(max_tokens=4, temperature=0.0)).choices[0].text


def test_the_fingerprint_names_the_backend(llm):
    """The fingerprint includes weights, library and batching, so it differs from that of the native pass."""
    assert re.fullmatch("fp_[0-9a-f]{16}", llm.system_fingerprint)
    assert llm.system_fingerprint != LLM().system_fingerprint


def test_the_conformance_kit_passes(backend, model_of, request):
    """The server of `decoding serve --backend` passes the conformance kit."""
    path = request.getfixturevalue("small_gguf") if backend == "llama-cpp" else model_of(backend)
    command = [sys.executable, "-m", "decoding"]
    flags = ["--backend", backend, "--port", "0", "--num-threads", "1"]
    server = subprocess.Popen([*command, "serve", "--model", f"m={path}", *flags], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        lines = iter(server.stderr.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r" on (http://127\.0\.0\.1:\d+)", line)))
        report = run_conformance(url, "m", num_draws=100)
    finally:
        server.terminate()
        server.wait()
        server.stderr.close()
    assert [(result.id, result.evidence) for result in report.results if result.status == "fail"] == []
    assert sum(result.status == "pass" for result in report.results) > 50


def test_a_wrong_model_is_an_error(backend, tmp_path, model_of):
    """A path without a model of this library is an error that names the path."""
    model_of(backend)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(b"GGUF nothing")
    path = tmp_path / "model.gguf" if backend == "llama-cpp" else tmp_path
    with pytest.raises((ModelError, ParameterError), match=str(tmp_path)):
        LLM(path, backend=backend)


def test_quantization_is_refused(backend, model_of):
    """The parameter quantization is refused with another library's forward pass."""
    with pytest.raises(ParameterError, match="quantization='q8_0': must be None with the backend"):
        LLM(model_of(backend), backend=backend, quantization="q8_0")
