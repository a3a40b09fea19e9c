"""A test battery for one sampler: small rows, each of which shows one well-known mistake.

    faults = find_faults(my_sampler, parameters=("temperature", "top_k", "top_p"))
    for fault in faults:
        print(fault)

Every row is decided by the float64 reference under the profile that describes the sampler, so the battery works for
every order and all boundary rules that a profile can describe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from decoding.errors import ParameterError
from decoding.params import SamplingParams
from decoding.sampling.stages import Profile
from decoding.testing.assertions import History, SamplerFunction, assert_independent, assert_matches_reference
from decoding.testing.probe_table import PROBES

NUM_SEEDS = 2000

EXACT = 1e-12
"""Tolerance for probes without rounding."""


class Fault(NamedTuple):
    """A fault: the probe's id, the rule, its reason, and the evidence."""

    id: str
    sentence: str
    reason: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.id}: {self.sentence}\n    why: {self.reason}\n    seen: {self.evidence}"


def find_faults(
    sampler: SamplerFunction,
    *,
    parameters: Collection[str] | None = None,
    profile: str | Profile = "openai",
    num_draws: int = 5000,
    tolerance: float = 1e-5,
) -> list[Fault]:
    """Run every probe that a sampler's parameters allow, and return the faults found: none for a correct sampler.

    Args:
        sampler: (logits, params, history, seed) -> token id or distribution, as `assert_matches_reference` takes it.
        parameters: names of the fields of SamplingParams that the sampler honours; None is all that a probe sets.
        profile: the profile whose order and rules the sampler should follow.
        num_draws: draws per probe of a sampler that returns tokens. 5,000 show wrong shares of about 8 %.
        tolerance: as for `assert_matches_reference`.
    """
    known = frozenset().union(*(probe.parameters for probe in PROBES))
    names = known if parameters is None else frozenset(parameters)
    if not names <= known:
        rule = f"must be among the parameters that probes set: {', '.join(sorted(known))}"
        raise ParameterError.single("parameters", sorted(names - known), rule)
    faults = []
    for probe in PROBES:
        if probe.parameters <= names:
            near = EXACT if probe.exact else tolerance
            try:
                assert_matches_reference(
                    sampler, probe.logits, probe.state(), profile=profile, num_draws=num_draws, tolerance=near
                )
            except Exception as error:  # a sampler that raises where it must not has a fault, too
                faults.append(Fault(probe.id, probe.sentence, probe.reason, _told(error)))
    return [*faults, *_seed_faults(sampler)]


def _told(error: Exception) -> str:
    text = str(error).removeprefix("row 0, ")
    return text if isinstance(error, AssertionError) else f"raises {type(error).__name__}: {text}"


def _seed_faults(sampler: SamplerFunction) -> Iterator[Fault]:
    """Yield the faults of a sampler that returns tokens in its use of the seed."""

    def draw(seeds: Collection[int], num_tokens: int) -> list[Any]:
        flat = np.zeros(num_tokens, np.float32)
        return [np.asarray(sampler(flat, SamplingParams(), History(), seed)) for seed in seeds]

    try:
        first = draw([0], 64)[0]
        if first.ndim:
            return
        again = draw([0] * 20, 64)
        neighbours = np.array(draw(range(NUM_SEEDS), 64), np.int64)
        far = np.array(draw([seed + 2**32 for seed in range(64)], 64), np.int64)
    except Exception as error:
        yield Fault("seed.any", "Every seed is taken.", "A seed comes from a user.", _told(error))
        return
    if any(token != first for token in again):
        yield Fault("seed.repeats", *_REPEATS, f"seed 0 draws {sorted({int(t) for t in (first, *again)})}")
    if (far == neighbours[:64]).all():
        yield Fault("seed.all_bits", *_ALL_BITS, "64 seeds draw the same with 2**32 added to each")
    try:
        assert_independent(neighbours.reshape(1, -1), np.full(64, 1 / 64))
    except AssertionError as error:
        yield Fault("seed.neighbours", *_NEIGHBOURS, str(error))


_REPEATS = ("The same seed draws the same token.", "Replaying a completion is what a seed is for.")
_ALL_BITS = ("All 64 bits of a seed count.", "Seeds that are hashes differ in their upper half, too.")
_NEIGHBOURS = (
    "Seeds 0, 1, 2, ... draw independently.",
    "People number their seeds; correlated ones make n samples worth less than n.",
)
