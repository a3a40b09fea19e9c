"""The engine's own cost, and what it saves: `python -m benchmarks.engine`.

On a Llama network of random weights, 15 million unless --size says so, with the bundled tokenizer. The engine's own
cost is the time of a step less that of the forward pass and of the sampler. It is measured on that network, whose
weights push the engine's code and objects out of the caches in every step, and on a tiny one. A time is the minimum
over many repeats: other load on the machine can only add to it. The Poisson arrivals are one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapes import NETWORKS, Network, write_checkpoint
from decoding.cli.measure import Progress, machine, machine_lines
from decoding.llm import LLM
from decoding.models import load_model
from decoding.models.batch import ForwardBatch, KVCache, Logits, Model
from decoding.models.native import NativeModel
from decoding.params import SamplingParams
from decoding.sampling.kernel import DrawnSteps
from decoding.sampling.sampler import Sampler

STREAMS, STEPS = 32, 200
PROMPT, CANDIDATES = 512, 16
TOKENS = 32
TINY = Network(64, 1, 2, 2, 128, 4_096)
"""1.2 MB of weights, which leave the engine's code and objects in the caches."""
LOADS = (0.5, 0.9)
ARRIVALS = 150


class Timed:
    """A model that measures its forward passes, and its steps in a row with the draws in them."""

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self.config = model.config
        self.rope_border = model.rope_border
        self.rope_regime = model.rope_regime
        self.new_cache = model.new_cache
        self.max_steps = model.max_steps
        self.seconds = 0.0

    def decode(self, *args: Any) -> DrawnSteps:
        """Run the model's steps in a row."""
        start = time.perf_counter()
        drawn = self._model.decode(*args)
        self.seconds += time.perf_counter() - start
        return drawn

    def forward(self, batch: ForwardBatch, cache: KVCache) -> Logits:
        """Run the model's forward pass."""
        start = time.perf_counter()
        logits = self._model.forward(batch, cache)
        self.seconds += time.perf_counter() - start
        return logits


def own_cost(
    model: NativeModel,
    progress: Callable[[str], None],
    num_sequences: int = STREAMS,
    is_streamed: bool = False,
    num_steps: int = STEPS,
) -> dict[str, float]:
    """Measure a decoding step, and the part that is neither the model's nor the sampler's.

    is_streamed: make a piece of each token, as `LLM.stream`; otherwise run steps in a row, as `LLM.complete`, and
        divide their times by their number.
    """
    timed, sampler = Timed(model), 0.0
    plain_sample = Sampler.sample

    def sample(*args: Any, **settings: Any) -> Any:
        nonlocal sampler
        start = time.perf_counter()
        output = plain_sample(*args, **settings)
        sampler += time.perf_counter() - start
        return output

    llm = LLM.from_parts(timed, LLM().tokenizer, max_num_seqs=num_sequences)
    in_a_row = 1 if is_streamed else model.max_steps(num_sequences)
    max_tokens = num_steps + 20 * in_a_row
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, stop=["@@@", "\x00\x01"], top_p=0.9)
    requests, _ = llm.engine.requests([[5, 6, 7, 8 + i] for i in range(num_sequences)], params)
    news: list[Any] = []
    listen = (lambda task, candidate: news.extend(task.deltas(candidate, 0))) if is_streamed else None
    tasks = llm.engine.add(requests, listen, is_streamed=is_streamed)
    for _ in range(10):
        llm.engine.step()
    own, whole = [], []
    Sampler.sample = sample  # type: ignore[method-assign]
    try:
        for number in range(0, num_steps, in_a_row):
            progress(f"steps of {num_sequences} sequences: {number}")
            timed.seconds = sampler = 0.0
            start = time.perf_counter()
            llm.engine.step()
            whole.append((time.perf_counter() - start) / in_a_row)
            own.append(whole[-1] - (timed.seconds + sampler) / in_a_row)
            news.clear()
    finally:
        Sampler.sample = plain_sample  # type: ignore[method-assign]
        llm.engine.abort(tasks)
    cost, step = min(own), min(whole)
    return {
        "num_sequences": num_sequences,
        "is_streamed": is_streamed,
        "steps_in_a_row": in_a_row,
        "step_ms": 1e3 * step,
        "own_ms": 1e3 * cost,
        "own_share": cost / step,
        "us_per_sequence": 1e6 * cost / num_sequences,
    }


LOGPROBS: dict[str, dict[str, Any]] = {
    "none": {},
    "of the drawn token": {"logprobs": 0},
    "and of 5 others": {"logprobs": 5},
    "and of 8 chosen ids": {"logprobs": 0, "logprob_token_ids": list(range(40, 48))},
}


def logprobs_cost(model: NativeModel, progress: Callable[[str], None], num_steps: int = 150) -> list[dict[str, Any]]:
    """Measure a step of STREAMS sequences with each kind of log-probabilities; the kinds take turns."""
    llms = {name: LLM.from_parts(model, LLM().tokenizer, max_num_seqs=STREAMS) for name in LOGPROBS}
    for name, llm in llms.items():
        max_tokens = (num_steps + 20) * model.max_steps(STREAMS)
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, top_p=0.9, seed=1, **LOGPROBS[name])
        requests, _ = llm.engine.requests([[5, 6, 7, 8 + number] for number in range(STREAMS)], params)
        llm.engine.add(requests)
    in_a_row = model.max_steps(STREAMS)
    times: dict[str, list[float]] = {name: [] for name in LOGPROBS}
    for number in range(num_steps + 10):
        progress(f"log-probabilities, step {number * in_a_row}")
        for name, llm in llms.items():
            start = time.perf_counter()
            llm.engine.step()
            times[name].append((time.perf_counter() - start) / in_a_row)
    plain = min(times["none"][10:])
    return [
        {"logprobs": name, "step_ms": 1e3 * min(of[10:]), "ratio": min(of[10:]) / plain} for name, of in times.items()
    ]


def sharing(model: Model, progress: Callable[[str], None], rounds: int = 3) -> dict[str, float]:
    """Measure 16 candidates of a prompt of 512 tokens, and one: computed prompt tokens, time to the first tokens."""
    seconds: dict[int, list[float]] = {1: [], CANDIDATES: []}
    num_computed = 0
    for number in range(rounds):
        for n, times in seconds.items():
            progress(f"a prompt of {PROMPT} tokens, n = {n}, round {number + 1}")
            llm = LLM.from_parts(model, max_num_seqs=CANDIDATES, prefix_cache=False)
            start = time.perf_counter()
            llm.complete(_prompt(PROMPT, number), SamplingParams(n=n, max_tokens=1, seed=1))
            times.append(time.perf_counter() - start)
            num_computed = llm.stats.num_prompt_tokens
    return {"prompt_tokens": num_computed, "one_ms": 1e3 * min(seconds[1]), "all_ms": 1e3 * min(seconds[CANDIDATES])}


def prefix_hit(model: Model, progress: Callable[[str], None], rounds: int = 5) -> dict[str, float]:
    """Measure the time to the first token of a prompt of 512 tokens and a few, without and with the prefix cached."""
    first, second = [], []
    llm = LLM.from_parts(model, max_num_seqs=4)
    for number in range(rounds):
        progress(f"prefix cache, round {number + 1}")
        prompt = _prompt(PROMPT, 100 + number)
        for times, end in ((first, [1, 2, 3]), (second, [4, 5, 6])):
            result = llm.complete([*prompt, *end], SamplingParams(max_tokens=1, seed=1))
            times.append(result.metrics.first_token_seconds)
    return {"cold_ms": 1e3 * min(first), "hit_ms": 1e3 * min(second), "ratio": min(first) / min(second)}


def capacity(model: Model) -> float:
    """Measure requests per second with batches that are always full."""
    llm = LLM.from_parts(model, max_num_seqs=STREAMS)
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True, seed=1)
    start = time.perf_counter()
    llm.complete([_prompt(64, 1000 + number) for number in range(3 * STREAMS)], params)
    return 3 * STREAMS / (time.perf_counter() - start)


def poisson(model: Model, rate: float, num_requests: int = ARRIVALS) -> dict[str, float]:
    """Measure requests that arrive at random, `rate` per second on average."""
    llm = LLM.from_parts(model, max_num_seqs=STREAMS)
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True, seed=1)
    gaps = np.random.Generator(np.random.Philox(7)).exponential(1 / rate, num_requests)
    done: list[Any] = []

    def serve(prompt: list[int]) -> None:
        done.append(llm.complete(prompt, params))

    threads, start = [], time.perf_counter()
    for number, gap in enumerate(gaps):
        time.sleep(gap)
        threads.append(threading.Thread(target=serve, args=(_prompt(64, 2000 + number),)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    firsts = sorted(1e3 * result.metrics.first_token_seconds for result in done)
    return {
        "requests_per_second": rate,
        "tokens_per_second": sum(result.usage.completion_tokens for result in done) / seconds,
        "first_token_ms_p50": firsts[len(firsts) // 2],
        "first_token_ms_p99": firsts[int(0.99 * len(firsts))],
        "per_token_ms": 1e3 * statistics.median(result.metrics.per_token_seconds for result in done),
    }


def speculation(progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the bundled model on code that repeats itself, plain and with prompt lookup."""
    prompt = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\ndef mul(a, b):\n    return"
    found = []
    for name in (None, "prompt_lookup"):
        progress(f"speculation: {name}")
        llm, times = LLM(speculation=name), []
        params = SamplingParams(max_tokens=128, temperature=0.0, ignore_eos=True, seed=1)
        for _ in range(3):
            start = time.perf_counter()
            result = llm.complete(prompt, params)
            times.append(time.perf_counter() - start)
        metrics = result.metrics
        accepted = metrics.num_accepted_tokens / max(1, metrics.num_draft_tokens)
        found.append({"drafts": name or "none", "tokens_per_second": 128 / min(times), "accepted": accepted})
    return found


def _prompt(num_tokens: int, key: int) -> list[int]:
    """Return tokens that no other prompt begins with."""
    return np.random.Generator(np.random.Philox(key)).integers(3, 4000, num_tokens).tolist()


def report(folder: Path, progress: Callable[[str], None], size: str = "15M") -> dict[str, Any]:
    """Measure everything on a network of benchmarks.shapes; --json writes it."""
    folder /= size
    write_checkpoint(folder, NETWORKS[size])
    model = load_model(folder)
    found: dict[str, Any] = {"machine": machine(), "network": size}
    write_checkpoint(folder.parent / "tiny", TINY)
    tiny = load_model(folder.parent / "tiny")
    kinds = [(count, is_streamed) for count in (1, STREAMS) for is_streamed in (False, True)]
    found["steps"] = [own_cost(model, progress, *kind) for kind in kinds]
    found["warm_steps"] = [own_cost(tiny, progress, *kind) for kind in kinds]
    found["logprobs"] = logprobs_cost(model, progress)
    found["sharing"], found["prefix"] = sharing(model, progress), prefix_hit(model, progress)
    progress("capacity")
    most = capacity(model)
    found["capacity"] = most
    found["poisson"] = []
    for load in LOADS:
        progress(f"Poisson arrivals, load {load}")
        found["poisson"].append({"load": load, **poisson(model, load * most)})
    found["speculation"] = speculation(progress)
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """Return the report as lines of text."""
    shared, prefix = found["sharing"], found["prefix"]
    return [
        *machine_lines(found["machine"]),
        f"network {found['network']}, float32",
        "",
        *(
            f"step, {step['num_sequences']:>2} {'streams' if step['is_streamed'] else 'sequences'},"
            f" {step['steps_in_a_row']} in a row  {step['step_ms']:.2f} ms,"
            f" the engine's own {step['own_ms']:.3f} ms: {100 * step['own_share']:.1f} %,"
            f" {step['us_per_sequence']:.1f} us per sequence,"
            f" with warm caches {warm['us_per_sequence']:.1f} us ({warm['steps_in_a_row']} in a row)"
            for step, warm in zip(found["steps"], found["warm_steps"], strict=True)
        ),
        *(
            f"logprobs {one['logprobs']:<20} step of {STREAMS} sequences {one['step_ms']:.2f} ms,"
            f" {one['ratio']:.3f} x that without"
            for one in found["logprobs"]
        ),
        f"n = {CANDIDATES} of {PROMPT} tokens     {shared['prompt_tokens']:.0f} prompt tokens computed; first tokens"
        f" after {shared['all_ms']:.1f} ms, of one candidate after {shared['one_ms']:.1f} ms",
        f"{PROMPT} tokens cached       first token after {prefix['hit_ms']:.1f} ms, without them after"
        f" {prefix['cold_ms']:.1f} ms: {prefix['ratio']:.1f} x shorter",
        f"full batches            {found['capacity']:.1f} requests/s of 64 + {TOKENS} tokens",
        *(
            f"Poisson, load {one['load']:.1f}        {one['requests_per_second']:.1f} requests/s:"
            f" {one['tokens_per_second']:,.0f} tokens/s; first token after {one['first_token_ms_p50']:.0f} ms (p99"
            f" {one['first_token_ms_p99']:.0f}), then {one['per_token_ms']:.1f} ms a token"
            for one in found["poisson"]
        ),
        *(
            f"drafts: {one['drafts']:<16}  {one['tokens_per_second']:,.0f} tokens/s"
            + (f", {100 * one['accepted']:.0f} % accepted" if one["accepted"] else "")
            for one in found["speculation"]
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description="The engine's own cost.")
    parser.add_argument("--size", choices=NETWORKS, default="15M", help="the network (default: 15M)")
    parser.add_argument("--folder", metavar="DIR", help="where to keep the network (default: nowhere)")
    parser.add_argument("--json", metavar="FILE", help="write all figures to a file, too")
    options = parser.parse_args(arguments)
    progress = Progress()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found = report(Path(options.folder or scratch), progress, options.size)
    finally:
        progress()
    print("\n".join(lines(found)))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
