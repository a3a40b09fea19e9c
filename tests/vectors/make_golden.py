"""Write tokens and log-probability bits that fix the stream version, as README.md beside this file describes.

    python tests/vectors/make_golden.py          # writes golden.txt.gz beside this file

All choices follow from Philox, logits are made from integers alone, and rows are drawn through the public interface, so
a line changes only if the kernel's result changes.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding import Sampler, SamplerOutput, SamplingParams, SamplingState
from decoding.sampling.kernel import STREAM_VERSION, active_isa
from decoding.sampling.stages import PROFILES
from decoding.types import LogprobsMode

GOLDEN = Path(__file__).with_name("golden.txt.gz")
FIRST_SEQUENCES = 4096  # the first sequences of stream version 1; later rows have columns for stages added since
NUM_SEQUENCES = FIRST_SEQUENCES + 512
NONE = 2**31 - 1  # the value of the header that turns top_k and dry_range off


# ---- choices ----


def random_words(first_key: int, second_key: int, n: int) -> NDArray[np.uint64]:
    """Return n words of Philox4x64-10 from the counter (1, 0, 0, 0) on; numpy counts up before the first block."""
    return np.asarray(np.random.Philox(key=np.array([first_key, second_key], np.uint64)).random_raw(n))


class Choices:
    """Random choices of a sequence, one 64-bit Philox word each, with the key (sequence, 2**64 - 1)."""

    def __init__(self, sequence: int) -> None:
        self._words = iter(random_words(sequence, 2**64 - 1, 1000).tolist())

    def word(self) -> int:
        """Return 64 random bits."""
        return next(self._words)

    def below(self, n: int) -> int:
        """Return an integer from 0 to n - 1."""
        return self.word() * n >> 64

    def pick(self, values: Sequence[Any]) -> Any:
        """Return one of the values."""
        return values[self.below(len(values))]

    def one_in(self, n: int) -> bool:
        """Return True with probability 1/n."""
        return self.below(n) == 0

    def ids(self, likely: Sequence[int], most: int) -> tuple[int, ...]:
        """Return up to `most` of a few ids, so that ids repeat."""
        return tuple(self.pick(likely) for _ in range(self.below(most + 1)))

    def distinct_ids(self, likely: Sequence[int], vocab_size: int) -> list[int]:
        """Return a few distinct ids, likely ones and arbitrary ones, in ascending order."""
        return sorted({self.pick((self.pick(likely), self.below(vocab_size))) for _ in range(1 + self.below(12))})


@dataclass(frozen=True)
class Recipe:
    """Parameters that turn random words into a row's bits (README.md)."""

    bits: int
    shift: int
    offset: int
    peak: int = 0
    ban: int = 0


RECIPES: dict[int, tuple[Recipe, ...]] = {
    0: (  # float32
        Recipe(24, 2, 0x3F800000),  # 1 to 16, both signs
        Recipe(24, 1, 0x3F800000, peak=0x01400000),  # up to 4, a few up to 24
        Recipe(24, 1, 0x40000000, peak=0x00800000, ban=230),  # one in ten is left
        Recipe(4, 22, 0x3E000000),  # sixteen values and their negatives: ties
        Recipe(2, 23, 0x40000000, ban=20),
        Recipe(12, 8, 0x40800000),  # 4 to 8, in steps of 2**-13: more tokens than values
        Recipe(24, 0, 0x41400000),
        Recipe(24, 4, 0x00000000),  # far below one unit: flat
        Recipe(24, 0, 0x00000000),  # subnormal
        Recipe(0, 0, 0x00000000),  # zeros of both signs
        Recipe(24, 1, 0x7D000000),  # up to 1.7e38
    ),
    1: (  # float16
        Recipe(12, 0, 0x3C00),
        Recipe(11, 0, 0x3C00, peak=0x0A00),
        Recipe(3, 9, 0x3800),
        Recipe(10, 0, 0x0000, ban=60),  # subnormal
        Recipe(11, 1, 0x6B00),  # up to 65504
    ),
    2: (  # bfloat16
        Recipe(9, 0, 0x3F80),
        Recipe(8, 0, 0x3F80, peak=0x0140),
        Recipe(8, 0, 0x4000, peak=0x0080, ban=230),
        Recipe(5, 3, 0x3F80),
        Recipe(7, 0, 0x0000),  # subnormal
    ),
}

SMALL = (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 200, 255, 256, 257, 300, 400, 511, 512, 513)
MIDDLE = (700, 1000, 1024, 1025, 2048, 4095, 4096, 4097)
LARGE = (32_000, 50_257, 128_256)

FEATURES: dict[str, dict[str, tuple[Any, ...]]] = {
    "temperature": {"temperature": (0.0, 2.0**-20, 0.05, 0.3, 0.7, 0.8, 1.3, 5.0, 1e30)},
    "dynatemp": {"dynatemp_range": (0.3, 0.5, 1.5), "dynatemp_exponent": (0.5, 1.0, 2.0)},
    "smoothing": {"smoothing_factor": (0.05, 0.2, 1.0), "smoothing_curve": (1.0, 1.5, 2.2, 3.0)},
    "top_k": {"top_k": (1, 2, 5, 20, 50, 400)},
    "top_p": {"top_p": (0.0, 0.1, 0.5, 0.9, 0.95, 0.999)},
    "min_p": {"min_p": (1e-5, 0.02, 0.1, 0.5, 1.0)},
    "typical_p": {"typical_p": (0.0, 0.2, 0.5, 0.9, 0.99)},
    "top_n_sigma": {"top_n_sigma": (0.0, 0.3, 1.0, 2.0)},
    "epsilon_cutoff": {"epsilon_cutoff": (1e-6, 3e-4, 3e-3, 0.05, 1.0)},
    "eta_cutoff": {"eta_cutoff": (1e-6, 3e-4, 4e-3, 0.1, 1.0)},
    "top_a": {"top_a": (0.05, 0.2, 0.5, 1.0)},
    "xtc": {"xtc_probability": (0.1, 0.5, 1.0), "xtc_threshold": (0.0, 0.01, 0.1, 0.3, 0.6)},
    "mirostat": {"mirostat_tau": (0.5, 2.0, 3.3, 5.0, 8.0), "mirostat_eta": (0.05, 0.1, 1.0)},
    "repetition": {
        "repetition_penalty": (0.7, 1.1, 1.3, 2.0),
        "repetition_penalty_scope": ("prompt+output", "output", 1, 4, 16),
    },
    "frequency": {"frequency_penalty": (-0.5, 0.2, 1.7)},
    "presence": {"presence_penalty": (-0.5, 0.3, 2.0)},
    "context_frequency": {"context_frequency_penalty": (-0.3, 0.1, 0.9)},
    "dry": {
        "dry_multiplier": (0.4, 0.8, 3.0),
        "dry_base": (1.0, 1.75, 2.5),
        "dry_allowed_length": (1, 2, 3),
        "dry_range": (None, None, 5, 12),
    },
    "no_repeat_ngram": {"no_repeat_ngram_size": (1, 2, 3, 4)},
    "raw_too": {"best_of": (2,)},
    "logprobs": {"logprobs": (1, 2, 5, 20)},
}
ADDED: dict[str, dict[str, tuple[Any, ...]]] = {
    "top_h": {"top_h": (0.0, 0.2, 0.4, 0.8, 0.99)},
    "p_less": {"p_less": ("plain", "norm")},
    "min_k": {"min_k": (0.0, 3.0, 20.0)},
    "tfs": {"tfs": (0.0, 0.5, 0.9, 0.99)},
    "mirostat_1": {"mirostat_tau": (0.5, 2.0, 5.0), "mirostat_eta": (0.1, 1.0), "mirostat_version": (1,)},
    "adaptive_p": {"adaptive_p_target": (0.0, 0.3, 0.55, 1.0), "adaptive_p_decay": (0.0, 0.9, 1.0)},
    "skew": {"skew": (-5.0, -0.5, 0.3, 2.0, 5.0)},
}
"""FEATURES and ADDED: values per parameter of a feature. If it is on, each of its parameters gets one of them."""

FIRST_PROFILES = ("openai", "transformers", "llama_cpp", "vllm")
"""The profiles of the first sequences."""

LISTS = ("logit_bias", "allowed_token_ids", "banned_token_ids", "bad_words", "dry_sequence_breakers")
ADDED_STAGES = (81, 82, 83, 84, 101, 102)
ALL_FEATURES = (*FEATURES, *LISTS, "bitmask", "padding", "profile")
MODES: tuple[LogprobsMode, ...] = ("raw", "penalized", "scaled", "final")

# ---- sequences ----


@dataclass(frozen=True)
class Case:
    """The rows of a sequence; the tokens drawn before a row are its context."""

    number: int
    dtype: int
    vocab_size: int
    num_valid_tokens: int
    recipe: Recipe
    period: int  # number of rows after which the logits repeat
    num_steps: int
    profile: str
    params: SamplingParams
    prompt: tuple[int, ...]
    choice: int
    stream: int
    bitmask: NDArray[np.uint32] | None


def make_case(number: int) -> Case:
    """Return a sequence with one feature chosen by its number, others at random, and the rest neutral."""
    choices = Choices(number)
    sizes = LARGE if number % 170 == 0 else MIDDLE if choices.one_in(16) else SMALL
    vocab_size, dtype = choices.pick(sizes), choices.pick((0, 0, 1, 2))
    recipe = choices.pick(RECIPES[dtype])
    likely = likely_ids(make_logits(number, 0, dtype, vocab_size, recipe), dtype)
    on = [name for name in ALL_FEATURES if name == ALL_FEATURES[number % len(ALL_FEATURES)] or choices.one_in(9)]
    is_first, added = number < FIRST_SEQUENCES, tuple(ADDED)
    if not is_first:
        on = [name for name in on if name != "mirostat"]
        on += [name for name in added if name == added[number % len(added)] or choices.one_in(9)]
    with_mask = "bitmask" in on and vocab_size < 600
    return Case(
        number=number,
        dtype=dtype,
        vocab_size=vocab_size,
        num_valid_tokens=vocab_size - choices.below(vocab_size) // 4 if "padding" in on else vocab_size,
        recipe=recipe,
        period=choices.pick((1, 1, 2, 100)),
        num_steps=1 if sizes == LARGE else choices.pick((1, 2, 2, 3, 4, 6)),
        profile=choices.pick(FIRST_PROFILES if is_first else tuple(PROFILES)) if "profile" in on else "openai",
        params=choose_params(choices, on, likely, vocab_size),
        prompt=choices.ids(likely, 16),
        choice=choices.pick((0, 0, 1, 7)),
        stream=choices.word() if choices.one_in(4) else 0,
        bitmask=random_words(number, 2**64 - 2, (vocab_size + 31) // 32).astype(np.uint32) if with_mask else None,
    )


def choose_params(choices: Choices, on: Sequence[str], likely: Sequence[int], vocab_size: int) -> SamplingParams:
    """Return parameters with values for the features that are on."""
    params: dict[str, Any] = {"seed": choices.pick((0, 1, -1, 42, choices.word() - 2**63))}
    for name in on:
        values_of = (FEATURES | ADDED).get(name, {})
        params |= {parameter: choices.pick(values) for parameter, values in values_of.items()}
    if "logprobs" in params or choices.one_in(2):
        params["logprobs"] = min(params.get("logprobs", 0), vocab_size)
        start, count = choices.below(4), choices.pick((1, 1, 2, 4))
        params["logprobs_mode"] = [MODES[(start + i) % 4] for i in range(count)]
    for name in on:
        if name in LISTS:
            params[name] = choose_list(name, choices, likely, vocab_size)
    return SamplingParams(**params)


def choose_list(name: str, choices: Choices, likely: Sequence[int], vocab_size: int) -> Any:
    """Return the value of a parameter that holds token ids."""
    if name == "logit_bias":
        return {token_id: choices.below(160) / 8 - 10 for token_id in choices.distinct_ids(likely, vocab_size)}
    if name in ("bad_words", "dry_sequence_breakers"):
        return [(choices.pick(likely), *choices.ids(likely, 2)) for _ in range(1 + choices.below(4))]
    return choices.distinct_ids(likely, vocab_size)


def make_logits(number: int, step: int, dtype: int, vocab_size: int, recipe: Recipe) -> NDArray[Any]:
    """Return a row's logits [vocab_size]; bfloat16 as uint16."""
    words = np.random.Philox(key=np.array([number, step], np.uint64)).random_raw(
        vocab_size
    )  # numpy's counter starts with 1
    sign, minus_infinity = (31, 0xFF800000) if dtype == 0 else (15, (0, 0xFC00, 0xFF80)[dtype])
    random = words >> np.uint64(1) >> np.uint64(63 - recipe.bits)
    magnitude = np.uint64(recipe.offset) + (random << np.uint64(recipe.shift))
    signed = magnitude | (words & np.uint64(1)) << np.uint64(sign)
    logits = np.where(words >> np.uint64(8) & np.uint64(255), signed, magnitude + np.uint64(recipe.peak))
    banned = (words >> np.uint64(16) & np.uint64(255)) < recipe.ban
    logits = np.where(banned, np.uint64(minus_infinity), logits)
    if dtype == 0:
        return logits.astype(np.uint32).view(np.float32)
    return logits.astype(np.uint16).view(np.float16 if dtype == 1 else np.uint16)


def likely_ids(logits: NDArray[Any], dtype: int) -> list[int]:
    """Return the first six ids of the total order, which are drawn often, so that histories and lists matter."""
    values = (logits.astype(np.uint32) << 16).view(np.float32) if dtype == 2 else logits.astype(np.float32)
    return [int(token_id) for token_id in np.argsort(-values, kind="stable")[:6]]


# ---- lines ----


def lines(case: Case) -> Iterator[str]:
    """Yield the lines of a sequence's rows; a row that fails is the last."""
    state = SamplingState(case.params, case.prompt, choice=case.choice, stream=case.stream)
    state.bitmask = case.bitmask
    sampler = Sampler(case.vocab_size, num_valid_tokens=case.num_valid_tokens, profile=case.profile)
    for step in range(case.num_steps):
        step_key = step % case.period
        before = [*case_columns(case, step_key), *row_columns(case, state)]
        logits = make_logits(case.number, step_key, case.dtype, case.vocab_size, case.recipe)
        output = sampler.sample(logits, [state], on_error="status")
        yield " ".join(map(str, [*before, *result_columns(output)]))
        if output.failures:
            return


def case_columns(case: Case, step_key: int) -> Iterator[Any]:
    """Yield the fields of decoding_batch, then the recipe of the logits."""
    profile, recipe = PROFILES[case.profile], case.recipe
    order = () if case.profile == "openai" else profile.order
    if case.number < FIRST_SEQUENCES:
        order = tuple(number for number in order if number not in ADDED_STAGES)
    yield from (0, int(profile.rules), case.dtype, case.vocab_size, case.num_valid_tokens, 1)
    yield from (len(order), *listed(order))
    yield from (case.number, step_key, recipe.bits, recipe.shift, recipe.offset, recipe.peak, recipe.ban)


def row_columns(case: Case, state: SamplingState) -> Iterator[Any]:
    """Yield the fields of decoding_row, in the order of the struct."""
    p, context = case.params, (*state.prompt_token_ids, *state.output_token_ids)
    ngram, bias = p.no_repeat_ngram_size or 0, tuple(p.logit_bias)
    modes = [] if p.logprobs is None else [1 + MODES.index(mode) for mode in p.logprobs_modes]
    history = count_history(context, len(case.prompt), p.repetition_penalty_scope)
    yield flags_of(p)
    yield from (state.seed % 2**64, state.stream, state.position, state.choice)
    yield from floats(p.temperature, p.dynatemp_range, p.dynatemp_exponent, p.smoothing_factor, p.smoothing_curve)
    yield NONE if p.top_k is None else p.top_k
    yield from floats(p.top_p, p.min_p, p.typical_p, math.inf if p.top_n_sigma is None else p.top_n_sigma)
    yield from floats(p.epsilon_cutoff, p.eta_cutoff, p.top_a, p.xtc_probability, p.xtc_threshold)
    yield from (0, max(0.0, state.mirostat_mu or 0.0))
    yield from floats(p.repetition_penalty, p.frequency_penalty, p.presence_penalty, p.context_frequency_penalty)
    yield from floats(p.dry_multiplier, p.dry_base)
    yield from (p.dry_allowed_length, NONE if p.dry_range is None else p.dry_range)
    yield from (len(history[0]), len(bias))
    for array in history:
        yield from listed(array)
    yield from listed([token_id for token_id, _ in bias])
    yield from listed(list(floats(*(value for _, value in bias))))
    yield from (*listed(context), len(context), ngram)
    for sequences in (p.dry_sequence_breakers, p.bad_words):
        yield from listed([token_id for sequence in sequences for token_id in sequence])
        yield from (*listed([len(sequence) for sequence in sequences]), len(sequences), 0)
    allowed = p.allowed_token_ids or ()
    yield from (len(p.banned_token_ids), len(allowed), *listed(p.banned_token_ids), *listed(allowed))
    yield from listed([] if case.bitmask is None else [f"{word:x}" for word in case.bitmask])
    yield from (*modes, *[0] * (4 - len(modes)), p.logprobs or 0, 0)
    if case.number >= FIRST_SEQUENCES:
        yield from floats(p.top_h, math.inf if p.min_k is None else p.min_k, p.tfs, p.skew)
        yield state.adaptive_p_center or 0.0


def flags_of(p: SamplingParams) -> int:
    """Return the flags of decoding_row."""
    flags = int(p.ranks_candidates) + (0 if p.mirostat_tau is None else 4)
    flags += 8 if p.mirostat_tau is not None and p.mirostat_version == 1 else 0
    flags += {None: 0, "plain": 16, "norm": 32}[p.p_less]
    return flags + (0 if p.adaptive_p_target is None else 64)


def result_columns(output: SamplerOutput) -> Iterator[Any]:
    """Yield the fields of decoding_result, then the top-N."""
    record = output.records[0]
    yield from (record[name] for name in ("status", "stage", "bad_token_id", "token_id", "rank", "num_top"))
    yield from bits([record["raw_logprob"], record["surprise"], *record["logprobs"]])
    num_top = int(record["num_top"])
    yield from listed(output.top_token_ids[0, :num_top])
    yield from listed(list(bits(output.all_top_logprobs[0, :, :num_top].ravel())))


def listed(items: Sequence[Any]) -> Iterator[Any]:
    """Yield the number of items, then the items."""
    yield from (len(items), *items)


def floats(*values: float) -> Iterator[str]:
    """Yield the shortest decimal numbers that round to these float32 values."""
    for value in values:
        yield str(np.float32(value)).removesuffix(".0")


def bits(values: Iterable[float]) -> Iterator[str]:
    """Yield the bits of float32 values in hexadecimal."""
    for value in values:
        yield f"{np.float32(value).view(np.uint32):x}"


def count_history(context: Sequence[int], num_prompt: int, scope: str | int) -> list[list[int]]:
    """Return the distinct context tokens, and their counts in the penalty's scope, the output and the context."""
    start = {"prompt+output": 0, "output": num_prompt}.get(scope) if isinstance(scope, str) else len(context) - scope
    ids = sorted(set(context))
    scoped, output = context[max(start, 0) :], context[num_prompt:]
    return [ids, *([part.count(token_id) for token_id in ids] for part in (scoped, output, context))]


def golden_text() -> str:
    """Return the text of the file: stream version and number of rows, then the rows."""
    rows = [line for number in range(NUM_SEQUENCES) for line in lines(make_case(number))]
    return "\n".join([f"{STREAM_VERSION} {len(rows)}", *rows, ""])


def main() -> None:
    """Write the file."""
    text = golden_text()
    GOLDEN.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{text.count(chr(10)) - 1} rows, made on {active_isa()}: {GOLDEN.stat().st_size} bytes in {GOLDEN}")


if __name__ == "__main__":
    main()
