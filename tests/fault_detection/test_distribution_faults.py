"""Samplers with one planted fault each: `find_faults` catches every one, and finds nothing in the right one."""

import numpy as np
import pytest
from samplers import PARAMETERS, PlainSampler

from decoding.testing import assert_matches_reference, find_faults
from decoding.testing.probe_table import PROBES
from decoding.testing.probes import EXACT


def top_p_boundary_excluded(self, mass, top_p):
    """The token that crosses p is dropped."""
    return max(1, int(np.searchsorted(mass, top_p - 1e-9)))


def top_p_boundary_doubled(self, mass, top_p):
    """The token after the one that crosses p stays, too."""
    return int(np.searchsorted(mass, top_p - 1e-9)) + 2


def top_p_strictly_above(self, mass, top_p):
    """A mass of exactly p is not enough."""
    return int(np.searchsorted(mass, top_p + 1e-9)) + 1


def prompt_counted(self, history):
    """Frequency and presence over prompt and output."""
    return np.array([*history.prompt_token_ids, *history.output_token_ids], np.int64)


def presence_by_count(self, x, params, history):
    """The presence penalty grows with the count."""
    counts = np.bincount(self.counted(history), minlength=len(x))
    return x - counts * (params.frequency_penalty + params.presence_penalty)


def frequency_as_flag(self, x, params, history):
    """The frequency penalty does not grow with the count."""
    counts = np.bincount(self.counted(history), minlength=len(x)) > 0
    return x - counts * (params.frequency_penalty + params.presence_penalty)


def bias_before_repetition(self, x, params, history):
    """The bias comes before the multiplicative penalty."""
    return PlainSampler.repetition(self, PlainSampler.bias(self, x, params, history), params, history)


def no_bias(self, x, params, history):
    """(The bias has been added already, or is forgotten.)"""
    return x


def repetition_divides(self, x, params, history):
    """Negative logits are divided, too."""
    x = x.copy()
    x[list({*history.prompt_token_ids, *history.output_token_ids})] /= params.repetition_penalty
    return x


def repetition_each_time(self, x, params, history):
    """Once for each occurrence."""
    x = x.copy()
    for token_id in (*history.prompt_token_ids, *history.output_token_ids):
        x[token_id] *= 1 / params.repetition_penalty if x[token_id] > 0 else params.repetition_penalty
    return x


def repetition_over_output(self, x, params, history):
    """The prompt is forgotten."""
    return PlainSampler.repetition(self, x, params, history._replace(prompt_token_ids=()))


def ties_kept(self, p, params):
    """top_k keeps every tie at the k-th."""
    if params.top_k is None or params.top_k >= len(p):
        return p
    return self.keep(p, np.flatnonzero(p >= np.sort(p)[-params.top_k]))


def top_k_off_by_one(self, p, params):
    """One token more than k."""
    return p if params.top_k is None else self.keep(p, self.order(p)[: params.top_k + 1])


def temperature_last(self, x, params):
    """Truncation at T = 1, temperature after it."""
    if params.temperature < 2.0**-20:
        return self.greedy(x)
    kept = self.truncate(self.softmax(x), params)
    with np.errstate(divide="ignore"):
        return self.softmax(np.log(kept) / params.temperature)


def temperature_on_probabilities(self, x, params):
    """Probabilities, not logits, are divided."""
    if params.temperature < 2.0**-20:
        return self.greedy(x)
    return self.truncate(self.softmax(self.softmax(x) / params.temperature), params)


def temperature_zero_as_small(self, x, params):
    """Greedy is a very low temperature: ties are drawn."""
    return self.truncate(self.softmax((x - x.max()) / max(params.temperature, 1e-6)), params)


def greedy_takes_the_last(self, x):
    """Of ties the highest id."""
    return (np.arange(len(x)) == len(x) - 1 - np.argmax(x[::-1])).astype(np.float64)


def min_p_absolute(self, p, params):
    """min_p as a bound of its own, not relative to the largest."""
    kept = np.flatnonzero(p >= params.min_p)
    return self.keep(p, kept if len(kept) else [p.argmax()])


def min_p_first(self, p, params):
    """min_p before top_p, which then sees another mass."""
    return self.top_p(self.min_p(self.top_k(p, params), params), params)


def top_p_not_renormalised(self, p, params):
    """top_p measures the mass before top_k."""
    order = self.order(p)
    keep = self.num_in_nucleus(np.cumsum(p[order]), params.top_p) if params.top_p < 1 else len(p)
    k = len(p) if params.top_k is None else params.top_k
    return self.min_p(self.keep(p, order[: min(keep, k)]), params)


def top_p_one_drops_the_tail(self, p, params):
    """top_p = 1 is compared with a float32 sum."""
    order = self.order(p)
    mass = np.cumsum(p[order].astype(np.float32))
    return self.keep(p, order[: int(np.searchsorted(mass, min(params.top_p, float(mass[-1])) - 1e-3)) + 1])


def masks_first(self, x, params, history):
    """A bias revives what a mask has banned (a large finite number stands for the ban)."""
    x = PlainSampler.masks(self, x, params, history)
    return PlainSampler.bias(self, np.where(np.isneginf(x), -50.0, x), params, history)


def min_tokens_ignored(self, x, params, history):
    """Stop tokens are drawn before min_tokens."""
    return PlainSampler.masks(self, x, params, history._replace(output_token_ids=(0,) * params.min_tokens))


def softmax_overflows(self, x):
    """exp() without taking the maximum out, in float32."""
    with np.errstate(all="ignore"):
        e = np.exp(x.astype(np.float32))
        return e / e.sum()


def shape_without_shift(self, x, params):
    """The row goes to `softmax` as it is."""
    if params.temperature < 2.0**-20:
        return self.greedy(x)
    with np.errstate(invalid="ignore"):
        return self.truncate(self.softmax(x / params.temperature), params)


def half_precision(self, x, params):
    """Logits are rounded to float16."""
    with np.errstate(all="ignore"):
        return PlainSampler.shape(self, x.astype(np.float16).astype(np.float64), params)


def nothing_checked(self, x):
    """NaN counts as -inf, and a row of nothing is uniform."""
    x[np.isnan(x)] = -np.inf
    if np.isneginf(x).all():
        x[:] = 0.0


FAULTS = {
    "top_p boundary excluded": ({"num_in_nucleus": top_p_boundary_excluded}, "top_p.crossing"),
    "top_p boundary doubled": ({"num_in_nucleus": top_p_boundary_doubled}, "top_p.crossing"),
    "top_p strictly above": ({"num_in_nucleus": top_p_strictly_above}, "top_p.exact"),
    "penalties counted over the prompt": ({"counted": prompt_counted}, "frequency.output"),
    "presence by count": ({"counts": presence_by_count}, "presence.once"),
    "frequency as a flag": ({"counts": frequency_as_flag}, "frequency.count"),
    "bias before the multiplicative penalty": (
        {"repetition": bias_before_repetition, "bias": no_bias},
        "bias.order",
    ),
    "bias forgotten": ({"bias": no_bias}, "bias.adds"),
    "repetition penalty divides negative logits": ({"repetition": repetition_divides}, "repetition.signs"),
    "repetition penalty each time": ({"repetition": repetition_each_time}, "repetition.once"),
    "repetition penalty without the prompt": ({"repetition": repetition_over_output}, "repetition.prompt"),
    "tie kept twice": ({"top_k": ties_kept}, "top_k.tie"),
    "top_k off by one": ({"top_k": top_k_off_by_one}, "top_k.exact"),
    "temperature after truncation": ({"shape": temperature_last}, "order.temperature_top_p"),
    "temperature on probabilities": ({"shape": temperature_on_probabilities}, "temperature.half"),
    "temperature 0 as a small one": ({"shape": temperature_zero_as_small}, "greedy.tie"),
    "greedy takes the last of ties": ({"greedy": greedy_takes_the_last}, "greedy.tie"),
    "min_p absolute": ({"min_p": min_p_absolute}, "min_p.relative"),
    "min_p before top_p": ({"truncate": min_p_first}, "order.top_p_min_p"),
    "top_p not renormalised": ({"truncate": top_p_not_renormalised}, "order.top_k_top_p"),
    "top_p of 1 drops the tail": ({"top_p": top_p_one_drops_the_tail}, "top_p.one"),
    "masks before the bias": ({"masks": masks_first, "bias": no_bias}, "mask.banned"),
    "min_tokens ignored": ({"masks": min_tokens_ignored}, "mask.min_tokens"),
    "softmax overflows": ({"softmax": softmax_overflows, "shape": shape_without_shift}, "plain.shifted"),
    "logits in float16": ({"shape": half_precision}, "plain.softmax"),
    "NaN passes": ({"check": nothing_checked}, "refuse.nan"),
}
"""What is replaced in PlainSampler, and a probe that must tell of it."""


def faulty(name, **options):
    """The right sampler with this fault in it."""
    replaced, _ = FAULTS[name]
    return type("Faulty", (PlainSampler,), dict(replaced))(**options)


def ids(faults):
    """Ids of the probes that failed."""
    return [fault.id for fault in faults]


def test_the_right_sampler_passes():
    """Both as distributions and as draws."""
    assert find_faults(PlainSampler(), parameters=PARAMETERS) == []
    assert find_faults(PlainSampler(as_tokens=True), parameters=PARAMETERS, num_draws=400) == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_caught_in_its_distributions(name):
    """The fault's own probe fails."""
    assert FAULTS[name][1] in ids(find_faults(faulty(name), parameters=PARAMETERS))


SMALL = {"logits in float16", "top_p of 1 drops the tail"}
"""Faults that move less mass than a few thousand draws can show; test_draw_faults.py has such in draws."""


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in SMALL])
def test_each_fault_is_caught_in_its_draws(name):
    """Also where the sampler shows nothing but tokens: 3,000 of them are enough."""
    (probe,) = (probe for probe in PROBES if probe.id == FAULTS[name][1])
    near = {"tolerance": EXACT} if probe.exact else {}
    with pytest.raises((AssertionError, ValueError)):
        assert_matches_reference(faulty(name, as_tokens=True), probe.logits, probe.state(), num_draws=3000, **near)
    assert_matches_reference(PlainSampler(as_tokens=True), probe.logits, probe.state(), num_draws=3000, **near)


@pytest.mark.parametrize(
    ("draw", "probe"),
    [
        (lambda self, p, seed: PlainSampler.draw(self, p, seed // 2), "seed.neighbours"),
        (lambda self, p, seed: PlainSampler.draw(self, p, seed % 2**32), "seed.all_bits"),
        (lambda self, p, seed: int(np.random.default_rng().choice(len(p), p=p)), "seed.repeats"),
        (lambda self, p, seed: [][seed], "seed.any"),
        (lambda self, p, seed: np.array([1, 2]), "plain.softmax"),
        (lambda self, p, seed: len(p), "plain.softmax"),
    ],
)
def test_wrong_draws_are_caught(draw, probe):
    """Seeds halved, cut to 32 bits, ignored; and answers that are no token."""
    sampler = type("Faulty", (PlainSampler,), {"draw": draw})(as_tokens=True)
    assert probe in ids(find_faults(sampler, parameters=(), num_draws=500))
