"""LLM on GGUF files, and on checkpoints that are quantised during loading."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decoding import LLM, SamplingParams
from decoding.errors import ModelNotFoundError, ParameterError
from decoding.models import load_config, load_model
from decoding.models.packing import pack_weights
from decoding.models.quantised_tensor import quantised
from decoding.models.registry import open_model

gguf = pytest.importorskip("gguf", reason="needs the gguf package (pip install 'decoding-engine[gguf]')")

HERE = Path(__file__).parent
CONVERTER = SimpleNamespace(**runpy.run_path(str(HERE / "make_gguf.py")))
CONTAINER = SimpleNamespace(**runpy.run_path(str(HERE.parent / "gguf_container.py")))
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, logit_bias={2: -100.0})
WIDE = {"hidden_size": 64, "intermediate_size": 96}


@pytest.fixture
def write(maker: Any, runs: Any, tmp_path: Path) -> Any:
    """Return a function that writes a recipe as a checkpoint and as a GGUF file and returns both paths."""

    def write_both(name: str = "llama", kind: str | None = None, **changes: Any) -> tuple[Path, Path]:
        [recipe] = [recipe for recipe in maker.recipes() if recipe.name == name]
        recipe = maker.Recipe(name, recipe.config | changes)
        folder, path = tmp_path / "checkpoint", tmp_path / "tiny.gguf"
        folder.mkdir()
        runs.write_recipe(folder, maker, recipe)
        tensors = maker.weights(recipe, runs.tensors(folder).items())

        def encode(tensor: str, values: np.ndarray) -> tuple[np.ndarray, Any]:
            chosen = "F32" if "embd" in tensor else "Q8_0" if tensor == "output.weight" and kind else kind or "F32"
            code = gguf.GGMLQuantizationType[chosen]
            return gguf.quants.quantize(values, code), code

        CONVERTER.write(path, recipe.config, tensors, encode)
        return folder, path

    return write_both


def test_text_of_a_file(write: Any, runs: Any) -> None:
    """Prompts and texts use the vocabulary in the file, and the tokens come from its network."""
    _, path = write(kind="Q8_0", **WIDE)
    llm = LLM(path)
    result = llm.complete("abc", GREEDY)
    assert result.prompt_token_ids == [1, 3, 4, 5, 6]  # <s> ▁ a b c
    model, prompt = load_model(path), result.prompt_token_ids
    expected = runs.greedy(model, prompt, 1)
    assert result.choices[0].token_ids[:1] == expected
    assert result.choices[0].text == llm.tokenizer.decode(result.choices[0].token_ids)
    assert (llm.name, llm.vocab_size, llm.generation_defaults) == ("tiny", 32, {})


def test_streams_and_seeds(write: Any) -> None:
    """Streamed pieces add up to the text; a seed gives the same text with other threads and beside other requests."""
    _, path = write(kind="Q4_1", **WIDE)
    llm, params = LLM(path, num_threads=1), SamplingParams(seed=7, max_tokens=20, n=2)
    result = llm.complete("ab", params)
    texts = [""] * 2
    for delta in llm.stream("ab", params):
        texts[delta.index] += delta.text
    assert texts == [choice.text for choice in result.choices]
    assert any(texts)
    others = [SamplingParams(seed=index, max_tokens=9) for index in range(5)]
    together = LLM(path, num_threads=2).complete(["ab", "c", "de", "f", "gh", "i"], [params, *others])[0]
    assert [choice.token_ids for choice in together.choices] == [choice.token_ids for choice in result.choices]


def test_end_tokens_of_the_metadata_end_a_text(write: Any) -> None:
    """The end token of the metadata finishes a text and is not part of it."""
    llm = LLM(write(**WIDE)[1])
    choice = llm.complete("a", SamplingParams(logit_bias={2: 100.0}, max_tokens=5)).choices[0]
    assert (choice.text, choice.finish_reason, choice.token_ids) == ("", "stop", [2])


def test_a_folder_and_shards(tmp_path: Path) -> None:
    """A folder with one sharded model, and each shard, opens the model; a shard opens it under the shards' name."""
    tiny, paths = CONTAINER.tiny_llama(), []
    for number, entries in enumerate((tiny.entries[:5], tiny.entries[5:])):
        metadata = tiny.metadata if number == 0 else {}
        split = {"split.no": CONTAINER.scalar(CONTAINER.U16, number), "split.count": CONTAINER.scalar(CONTAINER.U16, 2)}
        paths.append(tmp_path / f"tiny-{number + 1:05}-of-00002.gguf")
        paths[-1].write_bytes(CONTAINER.Container({**metadata, **split}, entries).bytes())
    (tmp_path / "config.json").write_text("{}")  # config.json of the converted checkpoint, which is ignored
    llms = [LLM(path) for path in (*paths, tmp_path)]
    texts = {llm.complete("abc", SamplingParams(temperature=0.0, max_tokens=8)).choices[0].text for llm in llms}
    assert len(texts) == 1
    assert len({llm.system_fingerprint for llm in llms}) == 1
    assert [llm.name for llm in llms] == ["tiny", "tiny", tmp_path.name]
    assert load_config(tmp_path) == load_config(paths[0])


def test_the_fingerprint_is_of_the_file(write: Any) -> None:
    """A changed byte in the file changes the fingerprint."""
    _, path = write(**WIDE)
    first = LLM(path).system_fingerprint
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert LLM(path).system_fingerprint != first


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_quantising_at_load_equals_a_quantised_file(
    name: str, kind: str, backend: str, write: Any, maker: Any, runs: Any
) -> None:
    """Quantising a checkpoint during loading gives the logits of a GGUF file that the `gguf` package quantised."""
    sizes = {"n_embd": 64, "n_inner": 96} if name == "gpt2" else WIDE
    folder, path = write(name, kind.upper(), tie_word_embeddings=False, **sizes)
    ids = [3, 7, 1, 30, 12]
    model, expected = load_model(folder, quantization=kind, backend=backend), load_model(path, backend=backend)
    tolerance = 0 if backend == "native" else 1e-5
    np.testing.assert_allclose(runs.logits(model, ids), runs.logits(expected, ids), atol=tolerance, rtol=0)
    assert np.abs(runs.logits(model, ids) - runs.logits(load_model(folder, backend=backend), ids)).max() > 1e-3


def test_rows_without_whole_blocks_are_not_quantised(write: Any, runs: Any) -> None:
    """A matrix whose rows are not whole blocks is not quantised; the others are."""
    folder, _ = write()
    packed = pack_weights(quantised(open_model(folder).weights(), "q8_0"), 1)
    assert [matrix.weight_type for matrix in packed.blocks[0][:4]] == ["q8_0", "q8_0", "q8_0", "float32"]


def test_quantization_is_part_of_the_fingerprint(write: Any) -> None:
    """Each value of `quantization` has its own fingerprint."""
    folder, _ = write(**WIDE)
    llms = [LLM(folder, quantization=kind) for kind in (None, "q8_0", "q4_0")]
    assert len({llm.system_fingerprint for llm in llms}) == 3


def test_wrong_quantization(write: Any) -> None:
    """An unknown quantization, and one of a file that is already quantised, are errors."""
    folder, path = write(kind="Q4_0", **WIDE)
    with pytest.raises(ParameterError, match=r"quantization='q5_0': must be None or one of 'q8_0', 'q4_0'"):
        LLM(folder, quantization="q5_0")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"quantization='q8_0': must be None: blk\.0\..* is Q4_0 in the file"):
        LLM(path, quantization="q8_0")


def test_a_network_without_whole_blocks(write: Any) -> None:
    """Quantising a network without a matrix that can be quantised is an error."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 24}
    folder, _ = write(**sizes)
    with pytest.raises(ParameterError, match=r"quantization='q8_0': needs a matrix whose rows are a multiple of 32"):
        LLM(folder, quantization="q8_0")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_a_checkpoint(name: str, write: Any) -> None:
    """A path to a file of a checkpoint is an error that names the folder to use."""
    folder, _ = write()
    with pytest.raises(ModelNotFoundError, match=rf"is one file of a checkpoint; give its folder, {folder}"):
        LLM(folder / name)


def test_the_name_of_a_file_does_not_matter(write: Any) -> None:
    """A GGUF file may have any name, such as the hash that download caches use."""
    _, path = write(**WIDE)
    path.rename(path.with_name("0123abcd"))
    assert LLM(path.with_name("0123abcd")).name == "0123abcd"


def test_on_the_command_line(write: Any) -> None:
    """`decoding complete --model FILE` prints the text, and no progress of loading to a pipe."""
    _, path = write(kind="Q8_0", **WIDE)
    command = [sys.executable, "-m", "decoding", "complete", "abc", "--model", str(path), "--temperature", "0"]
    done = subprocess.run(
        [*command, "--max-tokens", "12", "--logit-bias", "2=-100"], capture_output=True, text=True, check=True
    )
    assert done.stdout == LLM(path).complete("abc", GREEDY).choices[0].text + "\n"
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["seed", "replay"]
