"""The rotary settings of config.json, in the styles of transformers 4 and 5, as a Rope."""

from __future__ import annotations

import math
from collections.abc import Mapping

from decoding.models.config_reader import ConfigFile
from decoding.models.real_functions import log
from decoding.models.rope import DynamicRope, LinearRope, Llama3Rope, LongRope, Rope, YarnRope

_MAX_THETA = 1e30
_HARMLESS: dict[str, tuple[object, ...]] = {"finetuned": (True, False)}  # says how a model was trained


def read_rope(
    file: ConfigFile,
    head_dim: int,
    *,
    default_theta: float = 10000.0,
    partial: bool = False,
    names: Mapping[str, str] | None = None,
) -> Rope:
    """Return the rotary settings of an architecture that has one for all layers.

    Since transformers 5 they are all in `rope_parameters`; before, `rope_theta` and `partial_rotary_factor` stood
    beside the sizes, and `rope_scaling` had the rest. partial: True if the architecture may rotate only a
    part of each head. names: as for `parse_rope`.
    """
    settings = rope_section(file)
    theta = settings.positive_real("rope_theta", file.positive_real("rope_theta", default_theta))
    part = settings.positive_real("partial_rotary_factor", file.positive_real("partial_rotary_factor", 1.0))
    if part != 1.0 and not partial:
        raise file.unsupported("partial_rotary_factor", "only 1 is implemented for this model_type")
    return parse_rope(file, settings, head_dim, theta, part, names)


def rope_section(file: ConfigFile) -> ConfigFile:
    """Return `rope_parameters`, or `rope_scaling`, its older name; both may be present if they are equal."""
    parameters, scaling = file.section("rope_parameters"), file.section("rope_scaling")
    if not file.get("rope_parameters"):
        return scaling
    if file.get("rope_scaling") not in (None, {}, file.get("rope_parameters")):
        raise file.error("rope_scaling", "contradicts rope_parameters, its newer name")
    return parameters


def parse_rope(
    file: ConfigFile,
    settings: ConfigFile,
    head_dim: int,
    theta: float,
    part: float = 1.0,
    names: Mapping[str, str] | None = None,
) -> Rope:
    """Return a Rope from one section of `file`; UnsupportedModelError for an unknown type or key.

    part: the share of a head that is rotated. names: the architecture's names of the rope types that it has; None if
    it has all under their own names.
    """
    known = names or {name: name for name in _READERS}
    kind = known[settings.choice("rope_type" if settings.says("rope_type") else "type", known, "default")]
    for key in ("type", "original_max_position_embeddings"):  # which some files have beside types that ignore it
        settings.get(key)
    if not 1.0 <= theta <= _MAX_THETA:
        raise settings.error("rope_theta", f"must be a finite number from 1 to {_MAX_THETA:g}")
    if head_dim % 2:
        raise file.error("head_dim", f"must be even, not {head_dim}: rotary embeddings rotate pairs")
    dim = int(head_dim * part)
    if not 1 <= dim <= head_dim:
        raise settings.error("partial_rotary_factor", f"must rotate 1 to head_dim={head_dim} elements of a head")
    rope = _READERS[kind](file, settings, theta, dim)
    settings.refuse_others(_HARMLESS, f"is not a setting of rope_type {kind!r}")
    return rope


def _read_default(file: ConfigFile, settings: ConfigFile, theta: float, dim: int) -> Rope:
    return Rope(theta=theta, dim=dim)


def _read_linear(file: ConfigFile, settings: ConfigFile, theta: float, dim: int) -> Rope:
    return LinearRope(theta=theta, dim=dim, factor=settings.positive_real("factor"))


def _read_dynamic(file: ConfigFile, settings: ConfigFile, theta: float, dim: int) -> Rope:
    if dim == 2:
        raise settings.error("rope_type", "dynamic needs more than 2 rotated numbers in a head")
    trained = file.integer("max_position_embeddings")
    return DynamicRope(theta=theta, dim=dim, factor=settings.positive_real("factor"), trained=trained)


def _read_yarn(file: ConfigFile, settings: ConfigFile, theta: float, dim: int) -> Rope:
    trained = _trained(file, settings)
    factor = settings.positive_real("factor", file.integer("max_position_embeddings") / trained)
    if theta == 1.0:
        raise settings.error("rope_theta", "must be above 1 for yarn")
    return YarnRope(
        theta=theta,
        dim=dim,
        factor=factor,
        trained=trained,
        attention_factor=settings.positive_real("attention_factor", _yarn_attention_factor(settings, factor)),
        beta_fast=settings.positive_real("beta_fast", 32.0),
        beta_slow=settings.positive_real("beta_slow", 1.0),
        truncate=settings.boolean("truncate", True),
    )


def _yarn_attention_factor(settings: ConfigFile, factor: float) -> float:
    """Compute equation 22 of the YaRN paper; with two mscales, the ratio of two such values (DeepSeek-V2)."""

    def magnitude(mscale: float) -> float:
        return 0.1 * mscale * log(factor) + 1.0 if factor > 1 else 1.0

    mscale, all_dim = settings.real("mscale", 0.0), settings.real("mscale_all_dim", 0.0)
    return magnitude(mscale) / magnitude(all_dim) if mscale and all_dim else magnitude(1.0)


def _read_llama3(file: ConfigFile, settings: ConfigFile, theta: float, dim: int) -> Rope:
    low, high = settings.positive_real("low_freq_factor"), settings.positive_real("high_freq_factor")
    if low >= high:
        raise settings.error("low_freq_factor", f"must be below high_freq_factor={high}")
    return Llama3Rope(
        theta=theta,
        dim=dim,
        factor=settings.positive_real("factor"),
        trained=_trained(file, settings),
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _read_longrope(file: ConfigFile, settings: ConfigFile, theta: float, dim: int) -> Rope:
    trained = _trained(file, settings)
    factor = settings.positive_real("factor", file.integer("max_position_embeddings") / trained)
    if factor > 1 and trained == 1:
        raise file.error("original_max_position_embeddings", "must be above 1 for longrope")
    default = math.sqrt(1 + log(factor) / log(trained)) if factor > 1 else 1.0
    num_pairs = (dim + 1) // 2
    return LongRope(
        theta=theta,
        dim=dim,
        trained=trained,
        attention_factor=settings.positive_real("attention_factor", default),
        short_factor=settings.positive_reals("short_factor", num_pairs),
        long_factor=settings.positive_reals("long_factor", num_pairs),
    )


def _trained(file: ConfigFile, settings: ConfigFile) -> int:
    """Return the context length of the training: from the config, its rope settings, or max_position_embeddings."""
    inner = settings.integer("original_max_position_embeddings", file.integer("max_position_embeddings"))
    return file.integer("original_max_position_embeddings", inner)


_READERS = {
    "default": _read_default,
    "linear": _read_linear,
    "dynamic": _read_dynamic,
    "yarn": _read_yarn,
    "llama3": _read_llama3,
    "longrope": _read_longrope,
}
