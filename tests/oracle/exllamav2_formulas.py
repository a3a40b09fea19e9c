"""ExLlamaV2's sampler in float64, derived from its source: the reference of our profile exllamav2.

Its package needs a GPU, so its own code cannot run here. Sources: exllamav2_ext/cpp/sampling.cpp, ext_sampling.cpp, and
the penalties of generator/sampler.py. The constants below which it drops a token (1e-8, 1e-6) are left out.
"""

import heapq
import math

import numpy as np


def distribution(logits, params, context=(), temperature_last=False, mu=None):
    """Return the distribution of the draw, float64 [vocab]. Parameters have our names."""
    get = params.get
    x = penalised(np.asarray(logits, np.float64), params, context)
    temperature = get("temperature", 1.0)
    x = x - x.max()
    if get("smoothing_factor"):
        x = -(x**2) * get("smoothing_factor")
    p = softmax(x if temperature_last else x / temperature)
    for name, stage in STAGES.items():
        if get(name) is not None and np.count_nonzero(p) > 1:
            p = stage(p, get(name))
    if mu is not None:
        p = mirostat(p, mu)
    if temperature_last:
        p = p ** (1.0 / temperature)
        p /= p.sum()
    return skewed(p, get("skew", 0.0))


def penalised(x, params, context):
    """Return the logits after repetition, presence and frequency penalties over the context, and the bias."""
    counts = np.bincount(np.array(context, np.int64), minlength=len(x))
    seen, r = counts > 0, params.get("repetition_penalty", 1.0)
    x = np.where(seen, np.where(x > 0, x / r, x * r), x)
    x = x - seen * params.get("presence_penalty", 0.0) - counts * params.get("frequency_penalty", 0.0)
    for token_id, bias in params.get("logit_bias", {}).items():
        x[token_id] += bias
    return x


def softmax(x):
    """Return exp(x) over its sum."""
    e = np.exp(x - x.max())
    return e / e.sum()


def only(p, ids):
    """Return p restricted to these ids, renormalised."""
    kept = np.zeros_like(p)
    kept[ids] = p[ids]
    return kept / kept.sum()


def order(p):
    """Return the ids with a positive probability, in descending order of probability."""
    return np.argsort(-p, kind="stable")[: np.count_nonzero(p)]


def top_k(p, k):
    """Keep the k largest."""
    return only(p, order(p)[:k])


def top_p(p, limit):
    """Push tokens to a heap in order of id, and pop the smallest while the heap's mass is above the limit."""
    if not 0.0 < limit < 1.0:
        return p
    heap, mass = [], 0.0
    for token_id in np.flatnonzero(p).tolist():
        if mass > limit and p[token_id] < heap[0][0]:
            continue
        heapq.heappush(heap, (p[token_id], token_id))
        mass += p[token_id]
        while mass > limit and len(heap) > 1:
            mass -= heapq.heappop(heap)[0]
    return only(p, [token_id for _, token_id in heap])


def top_a(p, a):
    """Keep tokens of at least a times the square of the largest probability."""
    return only(p, np.flatnonzero(p >= a * p.max() ** 2))


def min_p(p, share):
    """Keep tokens of at least `share` times the largest probability. A share of 1 is off."""
    return only(p, np.flatnonzero(p >= share * p.max())) if 0.0 < share < 1.0 else p


def tfs(p, z):
    """Keep one token more than the longest head of normalised second differences whose sum is at most z."""
    ids = order(p)
    if not 0.0 < z < 1.0 or len(ids) < 3:
        return p
    bends = np.abs(-p[ids[:-2]] + 2 * p[ids[1:-1]] - p[ids[2:]])
    number = int((np.cumsum(bends / bends.sum()) <= z).sum())
    return only(p, ids[: number + 1])


def typical_p(p, limit):
    """Keep tokens in order of |p + ln p - mean| up to the one that crosses the limit, exclusive, at least one."""
    if not 0.0 < limit < 1.0:
        return p
    ids = np.flatnonzero(p)
    measure = p[ids] + np.log(p[ids])
    nearest = ids[np.argsort(np.abs(measure - np.dot(p[ids], measure)), kind="stable")]
    number = int((np.cumsum(p[nearest]) < limit).sum())
    return only(p, nearest[: max(1, number)])


def mirostat(p, mu):
    """Keep the leading tokens of at least 2**-mu."""
    ids = order(p)
    below = np.flatnonzero(p[ids[1:]] < 2.0**-mu)
    return only(p, ids[: 1 + (below[0] if len(below) else len(ids) - 1)])


def skewed(p, skew):
    """Return the distribution of a draw by inverse CDF, largest first, with u**exp(-skew)."""
    if skew == 0.0:
        return p
    ids = order(p)
    edges = np.concatenate([[0.0], np.cumsum(p[ids])]) ** math.exp(skew)
    drawn = np.zeros_like(p)
    drawn[ids] = np.diff(edges)
    return drawn / drawn.sum()


STAGES = {"top_k": top_k, "top_p": top_p, "top_a": top_a, "min_p": min_p, "tfs": tfs, "typical_p": typical_p}
"""Truncations in ExLlamaV2's order."""
