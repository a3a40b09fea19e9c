"""Explain a row stage by stage: run the kernel with the first 0, 1, 2, ... of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decoding.errors import LogitsError, shown
from decoding.params import PARAMETERS, SamplingParams
from decoding.presentation.html import legend
from decoding.sampling.explain_html import explanation_html
from decoding.sampling.kernel import Kernel
from decoding.sampling.logits_input import as_float32
from decoding.sampling.stages import GREEDY_TEMPERATURE, PIPELINE, STAGE_NAMES
from decoding.sampling.state import SamplingState
from decoding.validation import checked_token_id

Distribution = NDArray[np.float64]

_STAGES = {stage.name: stage for stage in PIPELINE}
_HARD_MASKS, _TEMPERATURE = _STAGES["hard_masks"], _STAGES["temperature"]


@dataclass(frozen=True, eq=False)
class Step:
    """The distribution before and after one stage.

    before, after: float64 [vocab], the distribution if the pipeline ended before this stage, or after it. A weight
        below 2**-40 of the largest is zero in either.
    name: of the stage (decoding.sampling.stages.PIPELINE); "logits" is the row as it came in.
    settings: the stage's parameters that are not at their defaults.
    """

    name: str
    settings: Mapping[str, object]
    before: Distribution
    after: Distribution

    @property
    def num_kept(self) -> int:
        """Number of tokens that can be drawn after the stage."""
        return int(np.count_nonzero(self.after))

    @property
    def mass_removed(self) -> float:
        """Probability, before the stage, of the tokens that cannot be drawn after it."""
        return float(self.before[self.after == 0].sum())

    @cached_property
    def entropy(self) -> float:
        """Entropy of the distribution after the stage, in nats."""
        p = self.after[self.after > 0]
        return abs(float((p * np.log(p)).sum()))

    def top_before(self, number: int = 5) -> list[tuple[int, float]]:
        """Return the most likely tokens and their probabilities before the stage, most likely first."""
        return _top(self.before, number)

    def top_after(self, number: int = 5) -> list[tuple[int, float]]:
        """Return the most likely tokens and their probabilities after the stage, most likely first."""
        return _top(self.after, number)

    @property
    def truncates(self) -> bool:
        """Return True if the stage drops tokens by its own rule, not only makes them more or less likely."""
        if self.name == _TEMPERATURE.name:
            return self.num_kept == 1 and cast(float, self.settings.get("temperature", 1.0)) < GREEDY_TEMPERATURE
        return self.name in _STAGES and (_STAGES[self.name].is_truncation or self.name == "mirostat")

    @property
    def title(self) -> str:
        """The stage and its settings in a few words: `top_p=0.95`."""
        settings = [f"{name}={shown(value)[:24]}" for name, value in self.settings.items()]
        is_named = any(name.startswith(self.name) for name in self.settings)
        return " ".join(settings if is_named else [self.name, *settings])


def _top(p: Distribution, number: int) -> list[tuple[int, float]]:
    number = min(number, int(np.count_nonzero(p)))
    ids = np.flatnonzero(p >= np.partition(p, -number)[-number]) if number > 0 else np.empty(0, np.int64)
    ids = ids[np.argsort(-p[ids], kind="stable")[:number]]  # of equal ones the lower id is first
    return [(token_id, float(p[token_id])) for token_id in ids.tolist()]


class Explanation:
    """One row, stage by stage; `print` shows it as a table.

    steps: the row as it came in, then each stage that has settings or changed anything, in their order.
    probabilities: float64 [vocab], the distribution of the draw.
    token_id: the token that `sample` draws; None if the row fails.
    error: the error of a row that fails after the last of the steps, or None.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        token_id: int | None,
        error: LogitsError | None,
        bans: Mapping[str, NDArray[np.bool]],
    ) -> None:
        """bans: for each thing that can ban tokens, by its name, the tokens that it bans, bool [vocab]."""
        self.steps = tuple(steps)
        self.token_id = token_id
        self.error = error
        self._bans = bans

    def __repr__(self) -> str:
        """Show the stages and the token."""
        stages = ", ".join(step.title for step in self.steps)
        return f"<Explanation token_id={self.token_id}: {stages}>"

    @property
    def probabilities(self) -> Distribution:
        """Distribution of the draw, or before the stage that failed: float64 [vocab]."""
        return self.steps[-1].after

    def why_not(self, token_id: int) -> str | None:
        """Return the stage and the rule by which this token could not be drawn; None if it could be drawn."""
        token_id = checked_token_id("token_id", token_id, len(self.probabilities))
        bans = [name for name, banned in self._bans.items() if banned[token_id]]
        if bans:
            return f"banned by {', '.join(bans)}"
        last = max((number for number, step in enumerate(self.steps) if step.after[token_id] > 0), default=-1)
        if last == len(self.steps) - 1:
            return None
        step = self.steps[last + 1]
        if step.truncates:
            return f"dropped by {step.title}, before which its probability was {step.before[token_id]:.3g}"
        return f"its weight is below 2**-40 of the largest after {step.title}"

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        """Show the steps as a table in a notebook."""
        return explanation_html(self) + legend()

    def table(self, text_of: Callable[[int], str] = str, num_top: int = 5) -> str:
        """Return the steps as lines of text, with the most likely tokens after each; `text_of` writes a token."""
        titles = [step.title if len(step.title) <= 48 else f"{step.title[:45]}..." for step in self.steps]
        width = max(map(len, titles))
        lines = [f"{'stage':<{width}}  {'kept':>9}  {'removed':>8}  {'entropy':>8}  most likely"]
        for title, step in zip(titles, self.steps, strict=True):
            top = "  ".join(f"{text_of(token_id)} {p:.4f}" for token_id, p in step.top_after(num_top))
            numbers = f"{step.num_kept:>9,}  {step.mass_removed:>8.6f}  {step.entropy:>8.4f}"
            lines.append(f"{title:<{width}}  {numbers}  {top}".rstrip())
        if self.token_id is None:
            lines.append(f"fails: {self.error}")
        else:
            lines.append(f"drawn: {text_of(self.token_id)} {self.probabilities[self.token_id]:.4f}")
        return "\n".join(lines)


def explain(
    kernel_of: Callable[[Sequence[int]], Kernel], order: Sequence[int], matrix: NDArray[Any], state: SamplingState
) -> Explanation:
    """Implement `Sampler.explain` on one checked row [1, vocab]; `kernel_of` makes a kernel that runs these stages."""
    steps: list[Step] = []
    for length in range(len(order) + 1):
        probabilities, output = kernel_of(order[:length]).probabilities(matrix, [state.kernel_row])
        if output.failures:
            break
        name, after = STAGE_NAMES[order[length - 1]] if length else "logits", probabilities[0]
        before = steps[-1].after if steps else after
        settings = _settings(name, state.params)
        if not steps or settings or not np.array_equal(before, after):
            steps.append(Step(name, settings, before, after))
    drawn = kernel_of(order).sample(matrix, [state.kernel_row])
    error = drawn.errors[0]
    if error is not None and not steps:
        raise error
    token_id = None if error else int(drawn.token_ids[0])
    return Explanation(steps, token_id, error, _bans(kernel_of, matrix, state))


def _settings(name: str, params: SamplingParams) -> dict[str, object]:
    """Return the stage's parameters that differ from their defaults."""
    parameters = _STAGES[name].parameters if name in _STAGES else ()
    given = {parameter: getattr(params, parameter) for parameter in parameters}
    return {parameter: value for parameter, value in given.items() if value != PARAMETERS[parameter].default}


def _bans(
    kernel_of: Callable[[Sequence[int]], Kernel], matrix: NDArray[Any], state: SamplingState
) -> dict[str, NDArray[np.bool]]:
    """Return the tokens that each mask bans by itself, bool [vocab], by the name of the mask."""
    kernel, neutral = (
        kernel_of([_HARD_MASKS.number]),
        {name: PARAMETERS[name].default for name in _HARD_MASKS.parameters},
    )
    flat = np.zeros(matrix.shape, np.float32)  # nothing falls below the cut here

    def banned_with(bitmask: NDArray[np.uint32] | None = None, **masks: object) -> NDArray[np.bool]:
        params: dict[str, Any] = neutral | masks
        asking = state.with_params(replace(state.params, **params), host_parameters=True)
        asking.bitmask = bitmask
        return np.asarray(kernel.probabilities(flat, [asking.kernel_row])[0][0] == 0)

    logits, padding = as_float32(matrix[0]), banned_with()
    bans = {"the logits": np.isneginf(logits) | np.isnan(logits), "num_valid_tokens": padding}
    for name in _settings(_HARD_MASKS.name, state.params):
        bans[name] = banned_with(**{name: getattr(state.params, name)}) & ~padding
    if state.bitmask is not None:
        bans["bitmask"] = banned_with(state.bitmask) & ~padding
    return bans
