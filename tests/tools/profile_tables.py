"""The tables of docs/profiles.md as data: parameter names in other engines, questions, known disagreements."""

import numpy as np

from decoding import Sampler, SamplingParams, SamplingState
from decoding.sampling.stages import PROFILES

ENGINES = ("transformers", "llama_cpp", "vllm", "mlx_lm", "sglang", "exllamav2")

NAMES = {
    "temperature": (
        "same",
        "--temp",
        "same; below 1e-5 greedy",
        "temp",
        "same; below 1e-6 greedy",
        "same; below 0.01 greedy",
    ),
    "dynatemp_range": ("-", "same", "-", "-", "-", "min_temp, max_temp: T - range, T + range"),
    "dynatemp_exponent": ("-", "--dynatemp-exp", "-", "-", "-", "temp_exponent"),
    "smoothing_factor": ("-", "-", "-", "-", "-", "same; the curve is 1"),
    "top_k": (
        "same; 0 is off",
        "same; 0 is off",
        "same; 0 or -1 is off",
        "same; 0 is off",
        "same; -1 is off",
        "same; 0 is off",
    ),
    "top_p": ("same", "same", "same", "same; 0 is off", "same", "same; 0 is off"),
    "min_p": ("same",) * 6,
    "typical_p": ("same", "--typical", "-", "-", "-", "typical; 0 is off"),
    "top_n_sigma": ("-", "same; -1 is off", "-", "-", "-", "-"),
    "top_h": ("same, another quantity", "-", "-", "-", "-", "-"),
    "tfs": ("-", "--tfs, until October 2024", "-", "-", "-", "same; 0 is off"),
    "epsilon_cutoff": ("same", "-", "-", "-", "-", "-"),
    "eta_cutoff": ("same", "-", "-", "-", "-", "-"),
    "top_a": ("-", "-", "-", "-", "-", "same"),
    "xtc_probability": ("-", "same", "-", "same", "-", "-"),
    "xtc_threshold": ("-", "same", "-", "same; at most 0.5", "-", "-"),
    "mirostat_tau": ("-", "--mirostat-ent", "-", "-", "-", "same, with mirostat=True"),
    "mirostat_eta": ("-", "--mirostat-lr", "-", "-", "-", "same"),
    "mirostat_version": ("-", "--mirostat", "-", "-", "-", "- (2)"),
    "adaptive_p_target": ("-", "--adaptive-target; below 0 is off", "-", "-", "-", "-"),
    "adaptive_p_decay": ("-", "--adaptive-decay; at most 0.99", "-", "-", "-", "-"),
    "skew": ("-", "-", "-", "-", "-", "same"),
    "repetition_penalty": ("same", "--repeat-penalty", "same", "same", "same", "token_repetition_penalty"),
    "repetition_penalty_scope": (
        "- (prompt+output)",
        "--repeat-last-n",
        "- (prompt+output)",
        "repetition_context_size (20), and one each for presence and frequency",
        "- (output)",
        "token_repetition_range; -1 is all",
    ),
    "frequency_penalty": (
        "-",
        "same, in the scope",
        "same",
        "same, in the scope",
        "same",
        "token_frequency_penalty, in the scope",
    ),
    "presence_penalty": (
        "-",
        "same, in the scope",
        "same",
        "same, in the scope",
        "same",
        "token_presence_penalty, in the scope",
    ),
    "logit_bias": ("sequence_bias", "same", "same", "same", "same", "token_bias, a tensor"),
    "no_repeat_ngram_size": ("same", "-", "-", "-", "-", "-"),
    "bad_words": ("bad_words_ids", "-", "same", "-", "-", "-"),
    "dry_multiplier": ("-", "same", "-", "-", "-", "same"),
    "dry_range": ("-", "--dry-penalty-last-n", "-", "-", "-", "same; 0 is all"),
    "min_tokens": ("min_new_tokens", "-", "same", "-", "min_new_tokens", "-"),
}
"""Names of each parameter in ENGINES, in that order."""

_SHAPE = (0.4, 0.25, 0.15, 0.1, 0.1)
_TIES = (0.4, 0.2, 0.2, 0.2)

QUESTIONS = (
    ("temperature=2 top_p=0.6", _SHAPE, {"temperature": 2.0, "top_p": 0.6}),
    ("temperature=2 min_p=0.5", _SHAPE, {"temperature": 2.0, "min_p": 0.5}),
    ("top_k=3 top_p=0.8", _SHAPE, {"top_k": 3, "top_p": 0.8}),
    ("top_p=0.7 min_p=0.3 temperature=3", _SHAPE, {"top_p": 0.7, "min_p": 0.3, "temperature": 3.0}),
    ("top_k=2 of 0.4 and three of 0.2", _TIES, {"top_k": 2}),
    ("top_p=0.5 of 0.4 and three of 0.2", _TIES, {"top_p": 0.5}),
    ("top_p=0.5 of four equal ones", (0.25,) * 4, {"top_p": 0.5}),
    ("typical_p=0.5 of four equal ones", (0.25,) * 4, {"typical_p": 0.5}),
    (
        "xtc_probability=1 xtc_threshold=0.15 of 0.4 and three of 0.2",
        _TIES,
        {"xtc_probability": 1.0, "xtc_threshold": 0.15},
    ),
)
"""Title, probabilities, parameters."""

DISAGREEMENTS = (
    ("transformers", _SHAPE, {"top_h": 0.7}, (0, 1, 2), "adds up -p ln p, not renormalised, of the first 100 tokens"),
    ("vllm", (0.5, 0.5), {"temperature": 5e-6}, (0,), "is greedy below a temperature of 1e-5"),
    ("mlx_lm", _SHAPE, {"top_p": 0.0}, (0, 1, 2, 3, 4), "treats a top_p of 0 as off"),
    (
        "sglang",
        _SHAPE,
        {"top_k": 3, "top_p": 0.7, "min_p": 0.01},
        (0, 1),
        "on CUDA, with min_p: top_k, then top_p of its rest",
    ),
    ("exllamav2", _SHAPE, {"top_p": 0.7}, (0, 1), "drops the token that crosses p"),
    ("exllamav2", _SHAPE, {"top_p": 0.52}, (0, 4), "adds later tokens whose probability still fits"),
    ("exllamav2", _SHAPE, {"typical_p": 0.3}, (1,), "measures ln p + p, and drops the token that crosses p"),
    ("exllamav2", _SHAPE, {"typical_p": 0.6}, (1, 2), "the same"),
    ("exllamav2", _SHAPE, {"min_p": 1.0}, (0, 1, 2, 3, 4), "treats a min_p of 1 as off"),
    ("exllamav2", (0.5, 0.5), {"temperature": 0.005}, (0,), "is greedy below a temperature of 0.01"),
)
"""Engine, probabilities, parameters, the ids that the engine keeps, and why. tests/oracle/test_exllamav2.py derives the
fourth from the engine's formulas."""

FURTHER = (
    ("transformers", "a bad word that is one EOS token is not banned."),
    ("llama_cpp", "with mirostat, there are no penalties and no DRY, and the temperature is static."),
    ("llama_cpp", "adaptive_p_decay is at most 0.99."),
    ("vllm", "bad words are searched in the output only; frequency and presence penalties are two subtractions."),
    (
        "mlx_lm",
        "xtc_threshold is at most 0.5, a token exactly at it does not count, and XTC can exempt special tokens.",
    ),
    (
        "mlx_lm",
        "presence_context_size and frequency_context_size are separate; here penalties have one scope.",
    ),
    ("sglang", "repetition_penalty counts the output only; set repetition_penalty_scope='output'."),
    ("sglang", "without overlap scheduling, the order of the penalties is not defined."),
    (
        "exllamav2",
        "dynamic temperature acts after truncation; here it acts in the stage temperature.",
    ),
    ("exllamav2", "token_repetition_decay, which weakens penalties of earlier tokens, is not available here."),
    ("exllamav2", "DRY multiplies by the number of earlier repetitions, and compares 20 tokens of each."),
    ("exllamav2", "top_p drops probabilities below 1e-6, tfs, typical and mirostat those below 1e-8."),
)
"""Disagreements that need a history, or a setting that other engines do not have."""


def kept(profile, p, params):
    """Return the ids that a profile keeps of a row with these probabilities."""
    state = SamplingState(SamplingParams(seed=0, **params))
    (row,) = Sampler(len(p), profile=profile).probabilities(np.log(p).astype(np.float32), [state])
    return tuple(np.flatnonzero(row).tolist())


def shown(ids):
    """Return ids as the text of a cell."""
    return " ".join(map(str, ids))


def line(cells):
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def table(head, rows):
    """Return a Markdown table."""
    return line(head) + "|" + "---|" * len(head) + "\n" + "".join(map(line, rows))


def names_table():
    """Return the table of names."""
    return table(("parameter", *ENGINES), ((f"`{name}`", *cells) for name, cells in NAMES.items()))


def questions_table():
    """Return the table of the ids that each profile keeps, computed by the sampler."""
    profiles = [name for name in PROFILES if "+" not in name]
    rows = ((title, *(shown(kept(profile, p, params)) for profile in profiles)) for title, p, params in QUESTIONS)
    return table(("question", *profiles), rows)


def disagreements_table():
    """Return the table of disagreements, with the ids that the profile keeps, and the list of those without a case."""
    rows = (
        (
            engine,
            " ".join(f"{name}={value:g}" for name, value in params.items()),
            shown(p),
            shown(kept(engine, p, params)),
            shown(theirs),
            why,
        )
        for engine, p, params, theirs, why in DISAGREEMENTS
    )
    head = ("engine", "parameters", "probabilities", "profile keeps", "engine keeps", "the engine")
    further = "".join(f"* {engine}: {sentence}\n" for engine, sentence in FURTHER)
    return table(head, rows) + "\n" + further


TABLES = {
    "names in other engines": names_table,
    "one question, all profiles": questions_table,
    "known disagreements": disagreements_table,
}
"""The tables of the page, by the name in its markers."""
