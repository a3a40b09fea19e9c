"""Write known answers of other projects' own code: the tokens that they keep, with their probabilities.

    pip install llama-cpp-python transformers torch "mlx[cpu]" mlx-lm; pip install --no-deps vllm sglang
    python tests/vectors/make_peers.py           # writes peers.json beside this file
    python tests/vectors/make_peers.py mlx_lm    # renews the answers of these peers and keeps the others

A question has our parameter names; a peer's answer is the distribution that it would draw from. The logits are made
from integers alone (`make_logits`), so the file holds answers only.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("peers.json")
COMMAND = "python tests/vectors/make_peers.py"
VOCAB_SIZE = 40
CONTEXT = (3, 5, 7, 3, 5, 9, 1, 3, 5, 7, 2, 3, 5)
NUM_PROMPT = 4
"""The number of prompt tokens at the beginning of CONTEXT; the others are output."""


@dataclass(frozen=True)
class Case:
    """A question: parameters, and a row of VOCAB_SIZE logits from `make_logits(seed, bits)`.

    num_steps > 1: a row per step, with ascending seeds. The peer draws a token after each row and keeps its state (of
    mirostat or adaptive-p).
    """

    profile: str
    params: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    bits: int = 24
    num_steps: int = 1


def make_logits(seed: int, bits: int = 24) -> np.ndarray:
    """Return multiples of 2**(4 - bits) from -8 to 8, float32 [VOCAB_SIZE]. Fewer bits give more ties."""
    words = np.random.Philox(key=[seed, bits]).random_raw(VOCAB_SIZE)
    integers = (words >> np.uint64(64 - bits)).astype(np.int64) - 2 ** (bits - 1)
    return (integers.astype(np.float64) * 2.0 ** (4 - bits)).astype(np.float32)


_PENALTIES: dict[str, Any] = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.3}
_DRY: dict[str, Any] = {"dry_multiplier": 0.8, "dry_base": 1.75, "dry_allowed_length": 1, "dry_range": 64}

ASKED: dict[str, list[dict[str, Any]]] = {
    "transformers": [
        {"repetition_penalty": 1.3, "logit_bias": {3: 2.5, 20: -4.0}},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"bad_words": [[7], [3, 5, 11], [5, 12], [4, 13]]},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_k": 12, "temperature": 2.0},
        {"top_p": 0.6, "temperature": 3.0},
        {"min_p": 0.1, "temperature": 2.0},
        {"typical_p": 0.3, "temperature": 2.0},
        {"typical_p": 0.8, "temperature": 4.0},
        {"epsilon_cutoff": 0.03, "temperature": 3.0},
        {"epsilon_cutoff": 0.9},
        {"eta_cutoff": 0.2, "temperature": 4.0},
        {"eta_cutoff": 0.01, "temperature": 2.0},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9, "temperature": 3.0},
        {"top_k": 30, "typical_p": 0.7, "epsilon_cutoff": 0.02, "eta_cutoff": 0.1, "temperature": 5.0},
    ],
    "llama_cpp": [
        {"repetition_penalty": 1.3, "repetition_penalty_scope": 5},
        _PENALTIES | {"repetition_penalty_scope": 6, "logit_bias": {3: 2.5, 20: -4.0}},
        _PENALTIES,
        _DRY,
        _DRY | {"dry_allowed_length": 2, "dry_base": 3.0},
        _DRY | {"dry_sequence_breakers": [[7]]},
        _DRY | {"dry_sequence_breakers": [[3]]},
        _DRY | {"dry_sequence_breakers": [[7, 2], [4]]},
        _DRY | {"dry_range": 6},
        {"temperature": 0.0},
        {"temperature": 0.0, "typical_p": 0.3},
        {"top_k": 5, "temperature": 2.0},
        {"top_p": 0.8, "temperature": 2.0},
        {"min_p": 0.05, "temperature": 2.0},
        {"typical_p": 0.3},
        {"typical_p": 0.7, "min_p": 0.2},
        {"top_n_sigma": 1.0, "temperature": 2.0},
        {"top_n_sigma": 0.5},
        {"xtc_probability": 1.0, "xtc_threshold": 0.1},
        {"xtc_probability": 1.0, "xtc_threshold": 0.02, "min_p": 0.01, "temperature": 1.5},
        {"dynatemp_range": 0.5},
        {"dynatemp_range": 2.0, "temperature": 1.5, "dynatemp_exponent": 0.5},
        {"dynatemp_range": 0.75, "temperature": 0.75, "dynatemp_exponent": 2.0, "top_k": 12},
        {"dynatemp_range": 1.0, "temperature": 0.0},
        _PENALTIES | {"top_k": 25, "typical_p": 0.9, "top_p": 0.95, "min_p": 0.02, "temperature": 1.4},
        _DRY | {"top_n_sigma": 2.0, "top_p": 0.9, "xtc_probability": 1.0, "xtc_threshold": 0.2, "temperature": 0.7},
        {"mirostat_tau": 1.0, "mirostat_eta": 0.3, "temperature": 3.0},
        {"mirostat_tau": 0.2, "mirostat_eta": 0.9, "temperature": 2.0},
        {"mirostat_tau": 1.0, "mirostat_eta": 0.3, "mirostat_version": 1, "temperature": 3.0},
        {"mirostat_tau": 2.5, "mirostat_eta": 0.9, "mirostat_version": 1, "temperature": 5.0},
        {"adaptive_p_target": 0.3, "adaptive_p_decay": 0.5, "min_p": 0.02, "temperature": 3.0},
        {"adaptive_p_target": 0.55, "adaptive_p_decay": 0.9, "top_k": 10},
        {"adaptive_p_target": 0.05, "adaptive_p_decay": 0.0, "temperature": 4.0},
    ],
    "vllm": [
        {"top_k": 5},
        {"top_p": 0.6, "temperature": 3.0},
        {"top_k": 12, "top_p": 0.9, "temperature": 4.0},
        {"top_p": 0.0},
        {"min_p": 0.3, "top_p": 0.5, "temperature": 4.0},
        {"min_p": 0.1, "top_k": 9, "top_p": 0.8, "temperature": 3.0},
    ],
    "mlx_lm": [
        {"repetition_penalty": 1.3, "repetition_penalty_scope": 5, "logit_bias": {3: 2.5, 20: -4.0}},
        _PENALTIES | {"repetition_penalty_scope": 6, "logit_bias": {3: 2.5, 20: -4.0}},
        _PENALTIES | {"repetition_penalty_scope": 64, "temperature": 2.0},
        {"temperature": 0.0},
        {"temperature": 0.5},
        {"top_p": 0.6, "temperature": 3.0},
        {"top_p": 0.9, "min_p": 0.05},
        {"min_p": 0.05, "temperature": 2.0},
        {"top_k": 5, "temperature": 2.0},
        {"top_k": 3, "top_p": 0.99},
        {"xtc_probability": 1.0, "xtc_threshold": 0.1},
        {"xtc_probability": 1.0, "xtc_threshold": 0.02, "min_p": 0.01, "temperature": 1.5},
        {"xtc_probability": 1.0, "xtc_threshold": 0.05, "top_k": 4, "top_p": 0.99},
        _PENALTIES | {"repetition_penalty_scope": 6, "top_k": 9, "top_p": 0.95, "min_p": 0.02, "temperature": 1.4},
    ],
    "sglang": [
        _PENALTIES | {"repetition_penalty_scope": "output"},
        _PENALTIES | {"repetition_penalty_scope": "output", "logit_bias": {3: 2.5, 20: -4.0}, "temperature": 2.0},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_k": 1},
        {"top_p": 0.6, "temperature": 3.0},
        {"top_p": 0.0},
        {"top_k": 3, "top_p": 0.6, "temperature": 3.0},
        {"top_k": 12, "top_p": 0.9, "temperature": 4.0},
        {"min_p": 0.1, "temperature": 2.0},
        {"min_p": 0.3, "top_k": 9, "top_p": 0.8, "temperature": 4.0},
    ],
}

KEEP_TIES = ("top_k", "typical_p", "epsilon_cutoff", "eta_cutoff", "min_p")
TIED = {
    "transformers": KEEP_TIES,
    "vllm": KEEP_TIES,
    "mlx_lm": ("top_p", "min_p", "xtc_probability", "xtc_threshold"),
    "sglang": ("min_p",),
}
"""Parameters that are also tested alone on rows with ties; others leave the order of ties to the peers' sorts."""


def cases(profile: str, seeds: tuple[int, ...] = (100, 200)) -> list[Case]:
    """Return every question on rows without ties, and some on a row of 4-bit logits with many ties."""
    found = []
    for params in ASKED[profile]:
        num_steps = 4 if params.keys() & {"mirostat_tau", "adaptive_p_target"} else 1
        found += [Case(profile, params, seed, num_steps=num_steps) for seed in seeds]
        truncations = params.keys() - {"temperature"}
        is_alone = len(truncations) == 1 or truncations == {"xtc_probability", "xtc_threshold"}
        if is_alone and truncations <= set(TIED.get(profile, ())):
            found.append(Case(profile, params, seeds[0], bits=4))
    return found


class Transformers:
    """The processors that transformers' `generate` makes, in its order."""

    def __init__(self) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._generation: Any = importlib.import_module("transformers.generation")
        self.version = importlib.import_module("transformers").__version__

    def answer(self, case: Case, rows: list[np.ndarray]) -> list[tuple[np.ndarray, None]]:
        """Return the distribution of each row."""
        processors, torch = self._processors(case.params), self._torch
        context = torch.tensor([CONTEXT])
        scores = [processors(context, torch.from_numpy(row)[None]) for row in rows]
        return [(torch.softmax(score[0].double(), -1).numpy(), None) for score in scores]

    def _processors(self, params: dict[str, Any]) -> Any:
        words = {"bad_words_ids": params.get("bad_words"), "sequence_bias": None, "top_k": params.get("top_k", 0)}
        if "logit_bias" in params:
            words["sequence_bias"] = {(token_id,): bias for token_id, bias in params["logit_bias"].items()}
        same = {name: value for name, value in params.items() if name not in ("bad_words", "logit_bias", "top_k")}
        config = self._generation.GenerationConfig(do_sample=True, **words, **same)
        config._eos_token_tensor = None
        model = SimpleNamespace(
            config=SimpleNamespace(is_encoder_decoder=False), _merge_criteria_processor_list=lambda ours, _: ours
        )
        return self._generation.GenerationMixin._get_logits_processor(model, config, len(CONTEXT), model_kwargs={})


class LlamaCpp:
    """The samplers of llama.cpp without a model, in the order of its default chain (common_params_sampling)."""

    def __init__(self) -> None:
        self._lib: Any = importlib.import_module("llama_cpp")
        self.version = self._lib.__version__

    def answer(self, case: Case, rows: list[np.ndarray]) -> list[tuple[np.ndarray, int | None]]:
        """Return per row the distribution, and the token that mirostat or adaptive-p drew."""
        samplers = self._chain(case.params)
        for sampler in samplers:
            for token_id in CONTEXT:
                self._lib.llama_sampler_accept(sampler, token_id)
        answers = [self._apply(samplers, row) for row in rows]
        for sampler in samplers:
            self._lib.llama_sampler_free(sampler)
        return answers

    def _apply(self, samplers: list[Any], row: np.ndarray) -> tuple[np.ndarray, int | None]:
        lib = self._lib
        array = (lib.llama_token_data * len(row))(
            *(lib.llama_token_data(i, float(logit), 0.0) for i, logit in enumerate(row))
        )
        candidates = lib.llama_token_data_array(array, len(row), -1, False)
        for sampler in samplers:
            lib.llama_sampler_apply(sampler, ctypes.byref(candidates))
        left = candidates.data[: candidates.size]
        logits = np.full(len(row), -np.inf)
        logits[[token.id for token in left]] = [token.logit for token in left]
        weights = np.exp(logits - logits.max())
        drawn = left[candidates.selected].id if candidates.selected >= 0 else None
        if drawn is not None:
            lib.llama_sampler_accept(samplers[-1], drawn)
        return weights / weights.sum(), drawn

    def _chain(self, params: dict[str, Any]) -> list[Any]:
        lib, get = self._lib, params.get
        temperature, seed = get("temperature", 1.0), 7
        biases = [lib.llama_logit_bias(i, b) for i, b in get("logit_bias", {}).items()]
        chain = [
            lib.llama_sampler_init_logit_bias(VOCAB_SIZE, len(biases), (lib.llama_logit_bias * len(biases))(*biases)),
        ]
        if "mirostat_tau" in params:
            chain.append(lib.llama_sampler_init_temp(temperature))
            numbers = get("mirostat_tau"), get("mirostat_eta")
            if get("mirostat_version") == 1:
                return [*chain, lib.llama_sampler_init_mirostat(VOCAB_SIZE, seed, *numbers, 100)]
            return [*chain, lib.llama_sampler_init_mirostat_v2(seed, *numbers)]
        return [
            *chain,
            lib.llama_sampler_init_penalties(
                VOCAB_SIZE,
                get("repetition_penalty_scope", len(CONTEXT)),
                get("repetition_penalty", 1.0),
                get("frequency_penalty", 0.0),
                get("presence_penalty", 0.0),
            ),
            *self._dry(params),
            lib.llama_sampler_init_top_n_sigma(get("top_n_sigma", -1.0)),
            lib.llama_sampler_init_top_k(get("top_k", 0)),
            lib.llama_sampler_init_typical(get("typical_p", 1.0), 1),
            lib.llama_sampler_init_top_p(get("top_p", 1.0), 1),
            lib.llama_sampler_init_min_p(get("min_p", 0.0), 1),
            lib.llama_sampler_init_xtc(get("xtc_probability", 0.0), get("xtc_threshold", 0.1), 1, seed),
            lib.llama_sampler_init_temp_ext(temperature, get("dynatemp_range", 0.0), get("dynatemp_exponent", 1.0)),
            *self._adaptive_p(params),
        ]

    def _adaptive_p(self, params: dict[str, Any]) -> list[Any]:
        """Return adaptive-p from the shared library, because the binding may be older than the sampler."""
        if "adaptive_p_target" not in params:
            return []
        init = self._lib.llama_cpp._lib["llama_sampler_init_adaptive_p"]
        init.restype = self._lib.llama_sampler_p_ctypes
        numbers = [ctypes.c_float(params["adaptive_p_target"]), ctypes.c_float(params["adaptive_p_decay"])]
        return [init(*numbers, ctypes.c_uint32(7))]

    def _dry(self, params: dict[str, Any]) -> list[Any]:
        """Return DRY through a function of llama.cpp's tests, which takes breakers as C++ vectors of ids."""
        if "dry_multiplier" not in params:
            return []
        init = self._lib.llama_cpp._lib["_Z30llama_sampler_init_dry_testingffiiRKSt6vectorIS_IiSaIiEESaIS1_EE"]
        init.restype = self._lib.llama_sampler_p_ctypes
        numbers = [ctypes.c_float(params["dry_multiplier"]), ctypes.c_float(params["dry_base"])]
        sizes = [params["dry_allowed_length"], params["dry_range"]]
        breakers = [_vector(ctypes.c_int32, ids) for ids in params.get("dry_sequence_breakers", [[VOCAB_SIZE]])]
        return [init(*numbers, *sizes, ctypes.byref(_vector(_Vector, breakers)))]


class _Vector(ctypes.Structure):
    """A C++ vector of libstdc++: pointers to its begin, its end, and the end of its memory."""

    _fields_ = (("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("capacity", ctypes.c_void_p))


def _vector(kind: Any, values: list[Any]) -> _Vector:
    array = (kind * len(values))(*values)
    end = ctypes.addressof(array) + ctypes.sizeof(array)
    vector = _Vector(ctypes.addressof(array), end, end)
    vector.kept = array
    return vector


class Vllm:
    """The functions of vLLM's V1 sampler that need only torch, from source; importing vLLM needs a GPU stack."""

    def __init__(self) -> None:
        self._torch: Any = importlib.import_module("torch")
        spec = importlib.util.find_spec("vllm")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("No module named 'vllm'")
        self.version = importlib.metadata.version("vllm")
        sample = Path(spec.origin).parent / "v1" / "sample"
        truncation = _functions(sample / "ops" / "topk_topp_sampler.py", torch=self._torch)
        self._top_k_top_p = truncation["apply_top_k_top_p_pytorch"]
        self._min_p = _functions(sample / "logits_processor" / "builtin.py", "MinPLogitsProcessor", torch=self._torch)

    def answer(self, case: Case, rows: list[np.ndarray]) -> list[tuple[np.ndarray, None]]:
        """Return the distribution of each row: temperature, min_p, top_k and top_p, in the order of Sampler.sample."""
        return [(self._answer(case.params.get, self._torch.from_numpy(row)[None]), None) for row in rows]

    def _answer(self, get: Any, scores: Any) -> np.ndarray:
        torch = self._torch
        k = None if get("top_k") is None else torch.tensor([get("top_k")])
        p = None if get("top_p") is None else torch.tensor([get("top_p")])
        scores = scores / get("temperature", 1.0)
        if get("min_p"):
            processor = SimpleNamespace(min_p_count=1, min_p=torch.tensor([[get("min_p")]]))
            scores = self._min_p["apply"](processor, scores)
        return torch.softmax(self._top_k_top_p(scores, k, p)[0].double(), -1).numpy()


class MlxLm:
    """The samplers and logits processors of mlx-lm's own chain, up to the draw."""

    def __init__(self) -> None:
        self._mx: Any = importlib.import_module("mlx.core")
        self._utils: Any = importlib.import_module("mlx_lm.sample_utils")
        self._utils.categorical_sampling = lambda logits, temperature: logits * (1 / temperature)
        self.version = importlib.metadata.version("mlx-lm")

    def answer(self, case: Case, rows: list[np.ndarray]) -> list[tuple[np.ndarray, None]]:
        """Return the distribution of each row."""
        return [(self._answer(case.params.get, row), None) for row in rows]

    def _answer(self, get: Any, row: np.ndarray) -> np.ndarray:
        mx, scope = self._mx, get("repetition_penalty_scope", 20)
        processors = self._utils.make_logits_processors(
            get("logit_bias"),
            *(get("repetition_penalty"), scope),
            *(get("presence_penalty"), scope),
            *(get("frequency_penalty"), scope),
        )
        logits = mx.array(row)[None]
        for processor in processors:
            logits = processor(mx.array(CONTEXT), logits)
        names = {"temp": "temperature", "top_p": "top_p", "min_p": "min_p", "top_k": "top_k"}
        names |= {"xtc_probability": "xtc_probability", "xtc_threshold": "xtc_threshold"}
        words = {theirs: get(ours) for theirs, ours in names.items() if get(ours) is not None}
        sampler = self._utils.make_sampler(**{"temp": 1.0} | words)
        answer = np.array(sampler(logits - mx.logsumexp(logits, axis=-1, keepdims=True)))[0]
        if answer.ndim == 0:
            return np.eye(VOCAB_SIZE)[int(answer)]
        weights = np.exp(answer.astype(np.float64) - answer.max())
        return np.asarray(weights / weights.sum())


class Sglang:
    """The functions of SGLang's sampler and penalties that need only torch, compiled from source."""

    def __init__(self) -> None:
        self._torch: Any = importlib.import_module("torch")
        spec = importlib.util.find_spec("sglang")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("No module named 'sglang'")
        self.version = importlib.metadata.version("sglang")
        runtime = Path(spec.origin).parent / "srt"
        names = {"torch": self._torch, "_is_npu": True, "get_compiler_backend": lambda: "eager"}
        penalty = runtime / "sampling" / "penaltylib" / "repetition_penalty.py"
        self._scale = _functions(penalty, only="apply_scaling_penalties", **names)["apply_scaling_penalties"]
        name = "top_k_top_p_min_p_sampling_from_probs_torch"
        self._truncate = _functions(runtime / "layers" / "sampler.py", only=name, **names)[name]

    def answer(self, case: Case, rows: list[np.ndarray]) -> list[tuple[np.ndarray, None]]:
        """Return the distribution of each row: additive penalties, scaling penalties, bias, temperature, truncation."""
        return [(self._answer(case.params.get, self._torch.from_numpy(row.copy())[None]), None) for row in rows]

    def _answer(self, get: Any, logits: Any) -> np.ndarray:
        torch = self._torch
        counts = torch.bincount(torch.tensor(CONTEXT[NUM_PROMPT:]), minlength=VOCAB_SIZE).float()[None]
        additive = counts * get("frequency_penalty", 0.0) + (counts > 0) * get("presence_penalty", 0.0)
        logits.sub_(additive)
        self._scale(logits, torch.where(counts > 0, get("repetition_penalty", 1.0), 1.0))
        for token_id, bias in get("logit_bias", {}).items():
            logits[0, token_id] += bias
        probs = torch.softmax(logits / get("temperature", 1.0), -1)
        numbers = (get("top_k", VOCAB_SIZE), get("top_p", 1.0), get("min_p", 0.0))
        limits = [torch.tensor([number]) for number in numbers]
        given = (probs, *limits, numbers[2] > 0, None, None)
        _, kept, token_ids, _ = self._truncate(*given, return_filtered_probs=True)
        answer = np.zeros(VOCAB_SIZE)
        answer[token_ids[0].numpy()] = kept[0].double().numpy()
        return answer / answer.sum()


def _functions(source: Path, class_name: str | None = None, only: str = "", **names: Any) -> dict[str, Any]:
    """Return the top-level functions of a module, or the methods of a class, compiled without the module's imports.

    only: name of the only function that is needed; "" for all.
    """
    body = ast.parse(source.read_text()).body
    if class_name is not None:
        (body,) = (node.body for node in body if isinstance(node, ast.ClassDef) and node.name == class_name)
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and only in ("", node.name)]
    code = "from __future__ import annotations\n" + "\n".join(map(ast.unparse, functions))
    exec(compile(code, str(source), "exec"), names)
    return names


PEERS = {"transformers": Transformers, "llama_cpp": LlamaCpp, "vllm": Vllm, "mlx_lm": MlxLm, "sglang": Sglang}


def ask(peer: Any, case: Case) -> dict[str, Any]:
    """Return the case and its answers in the form of peers.json: probabilities by token id per step.

    Weights below 2**-40 of the maximum are left out, because they are zero by our definition.
    """
    rows = [make_logits(case.seed + step, case.bits) for step in range(case.num_steps)]
    steps = []
    for p, drawn in peer.answer(case, rows):
        kept = {str(i): float(f"{p[i]:.6g}") for i in np.flatnonzero(p >= 2.0**-40 * p.max()).tolist()}
        steps.append({"p": kept} | ({} if drawn is None else {"drawn": drawn}))
    return vars(case) | {"steps": steps}


def main() -> None:
    """Write peers.json. Keep the answers of peers that the command does not name."""
    asked, old = sys.argv[1:] or list(PEERS), json.loads(FILE.read_text())
    versions, answers = {}, []
    for name, peer_class in PEERS.items():
        if name not in asked:
            answers += [case for case in old["cases"] if case["profile"] == name]
            versions |= {one: version for one, version in old["versions"].items() if one == name}
            continue
        peer = peer_class()
        versions[name] = peer.version
        answers += [ask(peer, case) for case in cases(name)]
    lines = ",\n  ".join(json.dumps(answer) for answer in answers)
    head = json.dumps({"command": COMMAND, "versions": versions})[1:-1]
    FILE.write_text(f'{{{head}, "cases": [\n  {lines}\n]}}\n')
    print(f"{len(answers)} answers of {versions}: {FILE}")


if __name__ == "__main__":
    main()
