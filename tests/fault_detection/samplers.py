"""A simple correct sampler, in parts that a test can replace by a faulty one."""

import numpy as np


class PlainSampler:
    """The default pipeline in float64: callable(logits, params, history, seed) -> distribution [vocab].

    as_tokens: return a drawn token instead of the distribution.
    """

    def __init__(self, as_tokens=False):
        self.as_tokens = as_tokens

    def __call__(self, logits, params, history, seed):
        """Return the distribution or a drawn token, as `assert_matches_reference` requires."""
        p = self.distribution(logits.astype(np.float64), params, history)
        return self.draw(p, seed) if self.as_tokens else p

    def distribution(self, x, params, history):
        """Return the distribution after all stages, in the order of docs/semantics.md."""
        self.check(x)
        banned = np.isneginf(x)
        for stage in (self.repetition, self.counts, self.bias):
            x = stage(x, params, history)
        x = self.masks(np.where(banned, -np.inf, x), params, history)
        self.check(x)
        return self.shape(x, params)

    def check(self, x):
        """Raise ValueError for NaN, +inf and a row of -inf only."""
        if np.isnan(x).any() or np.isposinf(x).any() or np.isneginf(x).all():
            raise ValueError("logits")

    def repetition(self, x, params, history):
        """Apply the repetition penalty once per distinct token of prompt and output."""
        seen = list({*history.prompt_token_ids, *history.output_token_ids})
        r = params.repetition_penalty
        x = x.copy()
        x[seen] = np.where(x[seen] > 0, x[seen] / r, x[seen] * r)
        return x

    def counts(self, x, params, history):
        """Apply the frequency and presence penalties to output tokens."""
        counts = np.bincount(self.counted(history), minlength=len(x))
        return x - counts * params.frequency_penalty - (counts > 0) * params.presence_penalty

    def counted(self, history):
        """Return the tokens that the frequency and presence penalties count."""
        return np.array(history.output_token_ids, np.int64)

    def bias(self, x, params, history):
        """Add the logit bias."""
        x = x.copy()
        for token_id, bias in params.logit_bias:
            x[token_id] += bias
        return x

    def masks(self, x, params, history):
        """Ban tokens, after all other edits."""
        x = x.copy()
        x[list(params.banned_token_ids)] = -np.inf
        if params.allowed_token_ids is not None:
            x[~np.isin(np.arange(len(x)), params.allowed_token_ids)] = -np.inf
        if len(history.output_token_ids) < params.min_tokens:
            x[list(params.stop_token_ids)] = -np.inf
        return x

    def shape(self, x, params):
        """Apply temperature, then truncation."""
        if params.temperature < 2.0**-20:
            return self.greedy(x)
        return self.truncate(self.softmax((x - x.max()) / params.temperature), params)

    def greedy(self, x):
        """Return all mass on the first maximum."""
        return (np.arange(len(x)) == np.argmax(x)).astype(np.float64)

    def softmax(self, x):
        """Return the softmax, without overflow."""
        e = np.exp(x - x.max())
        return e / e.sum()

    def truncate(self, p, params):
        """Apply top_k, top_p and min_p."""
        return self.min_p(self.top_p(self.top_k(p, params), params), params)

    def top_k(self, p, params):
        """Keep exactly k tokens; of ties, the lower ids."""
        return p if params.top_k is None else self.keep(p, self.order(p)[: params.top_k])

    def top_p(self, p, params):
        """Keep tokens up to the one that crosses top_p, inclusive."""
        if params.top_p == 1.0:
            return p
        order = self.order(p)
        return self.keep(p, order[: self.num_in_nucleus(np.cumsum(p[order]), params.top_p)])

    def num_in_nucleus(self, mass, top_p):
        """Return the number of tokens that reach a mass of top_p, with a tolerance for rounding."""
        return int(np.searchsorted(mass, top_p - 1e-9)) + 1

    def min_p(self, p, params):
        """Keep tokens of at least min_p times the maximum."""
        return self.keep(p, np.flatnonzero(p >= params.min_p * p.max() * (1 - 1e-9)))

    def order(self, p):
        """Return the ids in the total order."""
        return np.argsort(-p, kind="stable")

    def keep(self, p, ids):
        """Keep these ids and renormalise."""
        kept = np.zeros_like(p)
        kept[ids] = p[ids]
        return kept / kept.sum()

    def draw(self, p, seed):
        """Return a token drawn by inverse CDF."""
        total = np.cumsum(p)
        return int(np.searchsorted(total, np.random.default_rng(seed % 2**64).random() * total[-1], side="right"))


PARAMETERS = (
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("logit_bias", "banned_token_ids", "allowed_token_ids", "min_tokens", "stop_token_ids"),
)
"""The parameters that PlainSampler implements."""
