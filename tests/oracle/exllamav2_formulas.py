"""ExLlamaV2's sampler as its source describes it, derived again in float64: what its profile is held to.

Its package needs a GPU, so its own code cannot be asked here. Sources: exllamav2_ext/cpp/sampling.cpp,
ext_sampling.cpp, and the penalties of generator/sampler.py. The constants below which it drops a token (1e-8, 1e-6) are
left out.
"""

import heapq
import math

import numpy as np


def distribution(logits, params, context=(), temperature_last=False, mu=None):
    """Return the distribution of the draw, float64 [vocab], for parameters by our names."""
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
    """Repetition, presence and frequency, of all tokens of the context; then the bias."""
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
    """Return p over these ids, renormalised."""
    kept = np.zeros_like(p)
    kept[ids] = p[ids]
    return kept / kept.sum()


def order(p):
    """Return the ids with a probability, the largest first."""
    return np.argsort(-p, kind="stable")[: np.count_nonzero(p)]


def top_k(p, k):
    """Keep the k largest."""
    return only(p, order(p)[:k])


def top_p(p, limit):
    """Keep a heap of what was seen so far, in order of id, and drop its smallest while its mass is above the limit."""
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
    """Keep what is at least a times the square of the largest."""
    return only(p, np.flatnonzero(p >= a * p.max() ** 2))


def min_p(p, share):
    """Keep what is at least this share of the largest; 1 is off."""
    return only(p, np.flatnonzero(p >= share * p.max())) if 0.0 < share < 1.0 else p


def tfs(p, z):
    """Keep one token more than there are leading second differences, normalised, whose sum is at most z."""
    ids = order(p)
    if not 0.0 < z < 1.0 or len(ids) < 3:
        return p
    bends = np.abs(-p[ids[:-2]] + 2 * p[ids[1:-1]] - p[ids[2:]])
    number = int((np.cumsum(bends / bends.sum()) <= z).sum())
    return only(p, ids[: number + 1])


def typical_p(p, limit):
    """Nearest first by |p + ln p - their mean|, up to but without the token that crosses the limit, at least one."""
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
    """Return the distribution of the inverse CDF, largest first, of u**exp(-skew)."""
    if skew == 0.0:
        return p
    ids = order(p)
    edges = np.concatenate([[0.0], np.cumsum(p[ids])]) ** math.exp(skew)
    drawn = np.zeros_like(p)
    drawn[ids] = np.diff(edges)
    return drawn / drawn.sum()


STAGES = {"top_k": top_k, "top_p": top_p, "top_a": top_a, "min_p": min_p, "tfs": tfs, "typical_p": typical_p}
"""In its order."""
