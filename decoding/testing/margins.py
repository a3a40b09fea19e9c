"""Margins of rounding: the distance allowed between a sampler and the float64 reference.

The kernel holds a weight as a float32 exponential rounded to a 43-bit fraction; the reference does not round. So a
comparison whose sides are nearer than a margin (`MARGIN` for the kernel, more for a sampler that computes in float32)
may fall either way, and nothing else may. To find such comparisons the reference itself runs again, with each threshold
moved by the margin to either side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decoding.params import SamplingParams
from decoding.reference import Row, total_order
from decoding.reference.mirostat import first_mu
from decoding.reference.reshape import SHARPNESS, WIDTH, adapted, skew_logarithms
from decoding.reference.sample import APPLY, log_softmax, takes
from decoding.reference.temperature import temperature_at
from decoding.reference.weights import CUT, relative
from decoding.sampling.stages import GREEDY_TEMPERATURE
from decoding.validation import to_float32

Array: TypeAlias = NDArray[Any]

MARGIN = 1e-6
"""Distance from a threshold, in mass or relative to an exponent, beyond which the kernel's rounding must not decide."""

TYPICAL_QUANTUM = 2.0**-22
"""Distances from the mean (in units of T if T > 1) that differ by less may count as ties."""

_MASSES = ("top_p", "typical_p", "tfs")
_RATIOS = ("top_h", "min_p", "epsilon_cutoff", "eta_cutoff", "top_a", "xtc_threshold")


def row_that_keeps(row: Row, kept: Array, margin: float = MARGIN) -> Row | None:
    """Return the row if the reference keeps `kept`, bool [vocab]; otherwise one that rounding may have made, or None.

    If several comparisons are within the margin, any set between the fewest and the most tokens is accepted.
    """
    fewest = most = row.probabilities > 0
    if np.array_equal(kept, most):
        return row
    for other in moved_rows(row, margin):
        theirs = other.kept
        if np.array_equal(kept, theirs):
            return other
        fewest, most = fewest & theirs, most | theirs
    either = _at_the_cut(row, most, margin) if row.params.skew == 0.0 else _at_the_last_cut(row, most)
    between = ((kept <= (most | either)) & (kept >= (fewest & ~either))).all()
    return row if between and kept.any() else None


def _at_the_cut(row: Row, kept: Array, margin: float) -> Array:
    """Return the tokens whose weight is 2**-40 of the largest kept, within the margin: bool [vocab]."""
    if row.temperature < GREEDY_TEMPERATURE:
        return np.zeros_like(kept)
    return np.asarray(abs(row.whole - row.whole[kept].max() - CUT) < -CUT * margin)


def _at_the_last_cut(row: Row, kept: Array) -> Array:
    """Return the tokens whose weight after a skew is 2**-40 of the largest, within its error: bool [vocab]."""
    exponents = row.before_reshaping
    if row.params.adaptive_p_target is not None:
        exponents = adapted(row, exponents)
    logarithms = skew_logarithms(row, exponents)
    return np.asarray(abs(logarithms - logarithms[kept].max() - CUT) < -CUT * MARGIN + reshaping_error(row))


def num_kept_range(row: Row) -> tuple[int, int]:
    """Return the fewest and the most tokens that the reference keeps when its thresholds move by a margin."""
    numbers = [int((row.probabilities > 0).sum()), *(int(other.kept.sum()) for other in moved_rows(row))]
    return min(numbers), max(numbers)


def kept_rule(row: Row) -> str:
    """Return the number of tokens that must be kept, or a range, for messages."""
    fewest, most = num_kept_range(row)
    return str(most) if fewest == most else f"{fewest} to {most}"


def exponent_error(row: Row) -> float:
    """Return the relative distance allowed between the exponents of two correct samplers.

    It is 0, except if T depends on the entropy, or if the row itself was moved to find ties of typical_p.
    """
    error = 4 * MARGIN if row.params.typical_p < 1.0 else 0.0
    if row.params.dynatemp_range == 0.0 or row.temperature < GREEDY_TEMPERATURE:
        return error
    ratios = (row.entropy_ratio * (1.0 - MARGIN), min(1.0, row.entropy_ratio * (1.0 + MARGIN) + 2.0**-40))
    furthest = max(abs(temperature_at(row.params, ratio) - row.temperature) for ratio in ratios)
    return error + furthest / row.temperature


def reshaping_error(row: Row) -> float:
    """Return the relative distance that adaptive_p and skew allow between the probabilities of two correct samplers."""
    error = 0.0
    if row.params.adaptive_p_target is not None:
        error += SHARPNESS / WIDTH * (2 * MARGIN + exponent_error(row))
    if row.params.skew != 0.0:
        power = math.exp(to_float32(row.params.skew))
        error = 4 * MARGIN + (1.0 + power) * (2 * MARGIN + error + 30 * exponent_error(row))
    return error


def moved_rows(row: Row, margin: float = MARGIN) -> Iterator[Row]:
    """Yield the truncated row with every threshold moved a little down or up, in all combinations."""
    moves = [[(name, value) for value in _moved(row, name, margin)] for name in _thresholds(row)]
    for edited in _moved_logits(row, margin):
        for values in product(*moves):
            yield _truncated_again(row, dict(values), edited)


def _moved_logits(row: Row, margin: float) -> Iterator[Array]:
    """Yield the row after the masks, and for typical_p also rows in which tokens tied in their distance swap."""
    edited = row.stage_rows["hard_masks"]
    yield edited
    if row.params.typical_p < 1.0:
        quantum = TYPICAL_QUANTUM * max(1.0, row.temperature)
        merged = np.round(relative(edited) / quantum) * quantum
        for exponents in (relative(edited), merged):
            yield exponents * (1.0 - 4 * margin)
            yield exponents * (1.0 + 4 * margin)


def _thresholds(row: Row) -> list[str]:
    params = row.params
    if params.mirostat_tau is not None:
        return ["mirostat_mu"]
    off, switches = SamplingParams(), {"xtc_threshold": "xtc_probability"}
    names = {name: switches.get(name, name) for name in (*_MASSES, *_RATIOS, "top_n_sigma")}
    found = [name for name, switch in names.items() if getattr(params, switch) != getattr(off, switch)]
    return found if params.p_less is None else [*found, "p_less_factor"]


def _moved(row: Row, name: str, margin: float) -> tuple[float, float]:
    if name == "mirostat_mu":
        mu = first_mu(row.params) if row.mirostat_mu is None else row.mirostat_mu
        return mu - margin * max(1.0, mu), mu + margin * max(1.0, mu)
    if name == "p_less_factor":
        return _p_less_factors(row, margin)
    value = to_float32(getattr(row.params, name))
    if name in _MASSES:
        return max(0.0, value - margin), min(1.0, value + margin)
    factor = math.exp(4 * margin * max(1.0, -math.log(value or 1.0)))
    return value / factor, value * factor


def _p_less_factors(row: Row, margin: float) -> tuple[float, float]:
    """Return factors of p_less's threshold; under the rule "norm" it is a difference, less exact for flat rows."""
    error = 4 * margin
    if row.params.p_less == "norm":
        names = [stage.name for stage in row.profile.stages]
        p = np.exp(log_softmax(row.stage_rows[names[names.index("p_less") - 1]]))
        excess = np.count_nonzero(p) * float((p**2).sum()) - 1.0
        error *= 1.0 + (1.0 / excess if excess > 1e-9 else 1e9)
    return max(0.0, 1.0 - error), 1.0 + error


def _truncated_again(row: Row, values: dict[str, Any], edited: Array) -> Row:
    """Run the stages from the masks to the cut again, with other thresholds and logits."""
    mu = values.pop("mirostat_mu", row.mirostat_mu)
    factor = values.pop("p_less_factor", 1.0)
    params, order = copy(row.params), total_order(edited)
    for name, value in values.items():
        object.__setattr__(params, name, value)  # also where it leaves the range of the parameter by the margin
    again = replace(row, params=params, mirostat_mu=mu, p_less_factor=factor, logits=edited, ranked=edited, order=order)
    again.whole = relative(edited)
    after = [stage.name for stage in row.profile.stages].index("hard_masks") + 1
    for stage in row.profile.stages[after:-1]:
        if takes(again, stage):
            APPLY[stage.name](again)
    return again
