"""Samplers with one planted fault each: `find_faults` finds every fault, and none in the correct sampler."""

import numpy as np
import pytest
from samplers import PARAMETERS, PlainSampler

from decoding.testing import assert_matches_reference, find_faults
from decoding.testing.probe_table import PROBES
from decoding.testing.probes import EXACT


def top_p_boundary_excluded(self, mass, top_p):
    """Drop the token that crosses p."""
    return max(1, int(np.searchsorted(mass, top_p - 1e-9)))


def top_p_boundary_doubled(self, mass, top_p):
    """Keep one token after the token that crosses p."""
    return int(np.searchsorted(mass, top_p - 1e-9)) + 2


def top_p_strictly_above(self, mass, top_p):
    """Require a mass of more than p."""
    return int(np.searchsorted(mass, top_p + 1e-9)) + 1


def prompt_counted(self, history):
    """Count tokens of prompt and output for the frequency and presence penalties."""
    return np.array([*history.prompt_token_ids, *history.output_token_ids], np.int64)


def presence_by_count(self, x, params, history):
    """Let the presence penalty grow with the count."""
    counts = np.bincount(self.counted(history), minlength=len(x))
    return x - counts * (params.frequency_penalty + params.presence_penalty)


def frequency_as_flag(self, x, params, history):
    """Apply the frequency penalty only once per token."""
    counts = np.bincount(self.counted(history), minlength=len(x)) > 0
    return x - counts * (params.frequency_penalty + params.presence_penalty)


def bias_before_repetition(self, x, params, history):
    """Add the bias before the repetition penalty."""
    return PlainSampler.repetition(self, PlainSampler.bias(self, x, params, history), params, history)


def no_bias(self, x, params, history):
    """Add no bias, because it is added elsewhere or missing."""
    return x


def repetition_divides(self, x, params, history):
    """Divide negative logits by the repetition penalty, too."""
    x = x.copy()
    x[list({*history.prompt_token_ids, *history.output_token_ids})] /= params.repetition_penalty
    return x


def repetition_each_time(self, x, params, history):
    """Apply the repetition penalty once per occurrence."""
    x = x.copy()
    for token_id in (*history.prompt_token_ids, *history.output_token_ids):
        x[token_id] *= 1 / params.repetition_penalty if x[token_id] > 0 else params.repetition_penalty
    return x


def repetition_over_output(self, x, params, history):
    """Apply the repetition penalty to output tokens only."""
    return PlainSampler.repetition(self, x, params, history._replace(prompt_token_ids=()))


def ties_kept(self, p, params):
    """Keep all ties of the k-th token in top_k."""
    if params.top_k is None or params.top_k >= len(p):
        return p
    return self.keep(p, np.flatnonzero(p >= np.sort(p)[-params.top_k]))


def top_k_off_by_one(self, p, params):
    """Keep k + 1 tokens."""
    return p if params.top_k is None else self.keep(p, self.order(p)[: params.top_k + 1])


def temperature_last(self, x, params):
    """Truncate at temperature 1 and apply the temperature afterwards."""
    if params.temperature < 2.0**-20:
        return self.greedy(x)
    kept = self.truncate(self.softmax(x), params)
    with np.errstate(divide="ignore"):
        return self.softmax(np.log(kept) / params.temperature)


def temperature_on_probabilities(self, x, params):
    """Divide probabilities by the temperature instead of logits."""
    if params.temperature < 2.0**-20:
        return self.greedy(x)
    return self.truncate(self.softmax(self.softmax(x) / params.temperature), params)


def temperature_zero_as_small(self, x, params):
    """Treat temperature 0 as a very low one, so that ties are drawn."""
    return self.truncate(self.softmax((x - x.max()) / max(params.temperature, 1e-6)), params)


def greedy_takes_the_last(self, x):
    """Return all mass on the last maximum."""
    return (np.arange(len(x)) == len(x) - 1 - np.argmax(x[::-1])).astype(np.float64)


def min_p_absolute(self, p, params):
    """Compare min_p with the probability, not with its ratio to the maximum."""
    kept = np.flatnonzero(p >= params.min_p)
    return self.keep(p, kept if len(kept) else [p.argmax()])


def min_p_first(self, p, params):
    """Apply min_p before top_p."""
    return self.top_p(self.min_p(self.top_k(p, params), params), params)


def top_p_not_renormalised(self, p, params):
    """Measure the mass for top_p before top_k."""
    order = self.order(p)
    keep = self.num_in_nucleus(np.cumsum(p[order]), params.top_p) if params.top_p < 1 else len(p)
    k = len(p) if params.top_k is None else params.top_k
    return self.min_p(self.keep(p, order[: min(keep, k)]), params)


def top_p_one_drops_the_tail(self, p, params):
    """Compare a top_p of 1 with a float32 sum."""
    order = self.order(p)
    mass = np.cumsum(p[order].astype(np.float32))
    return self.keep(p, order[: int(np.searchsorted(mass, min(params.top_p, float(mass[-1])) - 1e-3)) + 1])


def masks_first(self, x, params, history):
    """Add the bias after the masks, which are finite, so that a bias can lift a ban."""
    x = PlainSampler.masks(self, x, params, history)
    return PlainSampler.bias(self, np.where(np.isneginf(x), -50.0, x), params, history)


def min_tokens_ignored(self, x, params, history):
    """Allow stop tokens before min_tokens."""
    return PlainSampler.masks(self, x, params, history._replace(output_token_ids=(0,) * params.min_tokens))


def softmax_overflows(self, x):
    """Return a softmax in float32 without subtracting the maximum."""
    with np.errstate(all="ignore"):
        e = np.exp(x.astype(np.float32))
        return e / e.sum()


def shape_without_shift(self, x, params):
    """Pass the row to `softmax` without subtracting the maximum."""
    if params.temperature < 2.0**-20:
        return self.greedy(x)
    with np.errstate(invalid="ignore"):
        return self.truncate(self.softmax(x / params.temperature), params)


def half_precision(self, x, params):
    """Round logits to float16."""
    with np.errstate(all="ignore"):
        return PlainSampler.shape(self, x.astype(np.float16).astype(np.float64), params)


def nothing_checked(self, x):
    """Treat NaN as -inf, and a row of -inf as uniform."""
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
"""Replaced methods of PlainSampler, and a probe that must fail, by the name of the fault."""


def faulty(name, **options):
    """Return the correct sampler with this fault."""
    replaced, _ = FAULTS[name]
    return type("Faulty", (PlainSampler,), dict(replaced))(**options)


def ids(faults):
    """Return the ids of the failed probes."""
    return [fault.id for fault in faults]


def test_the_correct_sampler_passes():
    """The correct sampler passes with distributions and with draws."""
    assert find_faults(PlainSampler(), parameters=PARAMETERS) == []
    assert find_faults(PlainSampler(as_tokens=True), parameters=PARAMETERS, num_draws=400) == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_caught_in_its_distributions(name):
    """Each planted fault fails its probe on distributions."""
    assert FAULTS[name][1] in ids(find_faults(faulty(name), parameters=PARAMETERS))


SMALL = {"logits in float16", "top_p of 1 drops the tail"}
"""Faults that move too little mass for a few thousand draws; test_draw_faults.py tests such faults."""


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in SMALL])
def test_each_fault_is_caught_in_its_draws(name):
    """A planted fault is found from 3,000 drawn tokens alone."""
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
    """Seeds that are halved, cut to 32 bits or ignored, and answers that are no token, are found."""
    sampler = type("Faulty", (PlainSampler,), {"draw": draw})(as_tokens=True)
    assert probe in ids(find_faults(sampler, parameters=(), num_draws=500))
