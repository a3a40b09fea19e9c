"""Rotary embeddings as GGUF files describe them: keys of the metadata, and tensors with a factor per pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from decoding.models.config_reader import ConfigFile
from decoding.models.gguf_layout import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS
from decoding.models.real_functions import log
from decoding.models.rope import Frequencies, LinearRope, LongRope, Rope, YarnRope

Factors: TypeAlias = Callable[[str, int], "tuple[float, ...] | None"]
"""Reads a tensor of `count` numbers above 0 by its name; None if the file has no such tensor."""

_MAX_THETA = 1e30
_KINDS = ("linear", "none", "yarn", "longrope")


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorRope(Rope):
    """Rope with the frequency of each pair divided by a factor of its own (as precomputed for Llama 3's scaling)."""

    factors: tuple[float, ...]

    def frequencies(self, regime: int) -> Frequencies:
        """Return the frequencies of Rope, divided by the factors."""
        return np.float32(1.0) / (np.array(self.factors, np.float32) * self.periods(self.theta))


def read_rope(file: ConfigFile, factors: Factors, head_dim: int, *, partial: bool = False) -> Rope:
    """Return the rotary embeddings of the layers without a window.

    file: the keys under the architecture's prefix. partial: True if parts of heads may be rotated.
    Raises CheckpointError for a value out of range, UnsupportedModelError for a setting that is not implemented.
    """
    key = "rope.global.freq_base" if file.says("rope.global.freq_base") else "rope.freq_base"  # Ollama's name first
    theta = read_theta(file, key, 10000.0)
    dim = file.integer("rope.dimension_count", head_dim, most=head_dim)
    if dim != head_dim and not partial:
        raise file.unsupported("rope.dimension_count", f"only head_dim={head_dim} is implemented for this architecture")
    if dim % 2:
        raise file.error("rope.dimension_count", "must be even: rotary embeddings rotate pairs")
    _refuse_unsupported(file)
    return _scaled(file, factors, theta, dim)


def read_theta(file: ConfigFile, key: str, default: float) -> float:
    """Return the base of the frequencies."""
    theta = file.positive_real(key, default)
    if not 1.0 <= theta <= _MAX_THETA:
        raise file.error(key, f"must be a finite number from 1 to {_MAX_THETA:g}")
    return theta


def _refuse_unsupported(file: ConfigFile) -> None:
    """Read the keys that only say how a model was trained, and refuse what would change the angles."""
    for key in ("rope.scaling.finetuned", "rope.scaling.original_context_length"):
        file.get(key)
    for key, neutral in (("rope.scaling.yarn_log_multiplier", 0.0), ("rope.scaling.alpha", 0.0)):
        if file.real(key, neutral) != neutral:
            raise file.unsupported(key, f"only {neutral:g} is implemented")


def _scaled(file: ConfigFile, factors: Factors, theta: float, dim: int) -> Rope:
    """Return the Rope of the scaling that the keys and the tensors with factors ask for."""
    kind = file.choice("rope.scaling.type", _KINDS, "linear")
    factor = _factor(file)
    attention_factor = file.positive_real("rope.scaling.attn_factor", 1.0)
    if kind == "yarn":
        rope: Rope = _yarn(file, theta, dim, factor, attention_factor)
    else:
        rope = Rope(theta=theta, dim=dim, attention_factor=attention_factor)
        if kind != "none" and factor != 1.0:
            rope = LinearRope(theta=theta, dim=dim, attention_factor=attention_factor, factor=factor)
    found = {name: factors(name, dim // 2) for name in (ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS)}
    if not any(found.values()):
        if kind == "longrope":
            raise file.error("rope.scaling.type", f"needs the tensors {LONG_FACTORS} and {SHORT_FACTORS}")
        return rope
    if type(rope) is not Rope:
        raise file.unsupported("rope.scaling.type", "is not implemented together with a factor for each pair")
    return _with_factors(file, rope, found[ROPE_FACTORS], found[LONG_FACTORS], found[SHORT_FACTORS])


def _with_factors(
    file: ConfigFile,
    rope: Rope,
    every: tuple[float, ...] | None,
    long: tuple[float, ...] | None,
    short: tuple[float, ...] | None,
) -> Rope:
    """Return the Rope with factors for all lengths, or with ones for short and others for long sequences."""
    if every is not None:
        return FactorRope(theta=rope.theta, dim=rope.dim, attention_factor=rope.attention_factor, factors=every)
    if long is None or short is None:
        raise file.unsupported("rope.scaling.type", f"needs both {LONG_FACTORS} and {SHORT_FACTORS}")
    return LongRope(
        theta=rope.theta,
        dim=rope.dim,
        attention_factor=rope.attention_factor,
        trained=_trained(file),
        short_factor=short,
        long_factor=long,
    )


def _trained(file: ConfigFile) -> int:
    """Return the context length of the training."""
    return file.integer("rope.scaling.original_context_length", file.integer("context_length"))


def _factor(file: ConfigFile) -> float:
    """Return the factor by which positions are divided; old files have another name for it, and 0 means 1."""
    key = "rope.scaling.factor" if file.says("rope.scaling.factor") else "rope.scale_linear"
    return 1.0 if file.real(key, 0.0) == 0.0 else file.positive_real(key)


def _yarn(file: ConfigFile, theta: float, dim: int, factor: float, attention_factor: float) -> YarnRope:
    if theta == 1.0:
        raise file.error("rope.freq_base", "must be above 1 for yarn")
    if file.real("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
        raise file.unsupported("rope.scaling.yarn_ext_factor", "only 1 is implemented")
    magnitude = 0.1 * log(factor) + 1.0 if factor > 1.0 else 1.0  # equation 22 of the paper
    return YarnRope(
        theta=theta,
        dim=dim,
        attention_factor=attention_factor * file.positive_real("rope.scaling.yarn_attn_factor", magnitude),
        factor=factor,
        trained=_trained(file),
        beta_fast=file.positive_real("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=file.positive_real("rope.scaling.yarn_beta_slow", 1.0),
        truncate=True,
    )
