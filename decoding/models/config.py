"""ModelConfig: the settings of a network from its config.json, under the same names for all architectures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from decoding.models.config_reader import ConfigFile
from decoding.models.log import warn_once
from decoding.models.rope import Rope

_MAX_LAYERS = 4096
_MAX_HEAD_DIM = 1 << 16


class LayerConfig(NamedTuple):
    """Settings that may differ from layer to layer.

    rope: None for a layer without rotary embeddings. window: maximum number of tokens that a query attends to,
    including its own; None for no limit. scale: factor of the attention scores.
    """

    rope: Rope | None
    window: int | None
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The sizes of a decoder network and the numbers in it that are not weights, under Hugging Face's names.

    num_attention_heads is a multiple of num_key_value_heads. max_position_embeddings is the maximum length of a
    sequence, which stretched rotary embeddings can make larger than the file says. bos_token_id is None where a
    sequence needs no start token; eos_token_ids are those of generation_config.json and config.json together
    (the tokenizer's eos_token joins them in a request). Token ids lie in 0..vocab_size-1.

    Soft caps are None if there are none. The scales multiply: embedding_scale the embeddings, residual_scale what each
    half of a layer adds, logits_scale the logits (before their cap).
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    layers: tuple[LayerConfig, ...]
    norm_eps: float
    hidden_act: str
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    gated_mlp: bool = True
    tie_word_embeddings: bool
    parallel_residual: bool = False
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)


class Sizes(NamedTuple):
    """The sizes that every config.json has, under ModelConfig's names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int


def read_sizes(file: ConfigFile) -> Sizes:
    """Return the sizes of an architecture with grouped key heads and a head size of its own."""
    hidden, heads = file.integer("hidden_size"), file.integer("num_attention_heads")
    kv_heads = file.optional_integer("num_key_value_heads") or heads  # null says so, whatever the default
    head_dim = file.integer("head_dim", max(1, hidden // heads), most=_MAX_HEAD_DIM)
    if hidden % heads and not file.has("head_dim"):
        raise file.error("hidden_size", f"must be a multiple of num_attention_heads={heads}")
    if heads % kv_heads:
        raise file.error("num_attention_heads", f"must be a multiple of num_key_value_heads={kv_heads}")
    return Sizes(file.integer("vocab_size"), hidden, file.integer("intermediate_size"), heads, kv_heads, head_dim)


def read_plain_sizes(file: ConfigFile, hidden_key: str, heads_key: str, inner: int | None) -> Sizes:
    """Return the sizes of an architecture whose heads divide hidden_size evenly, read under the given names.

    inner: the value of intermediate_size; None reads it from the file.
    """
    hidden, heads = file.integer(hidden_key), file.integer(heads_key)
    inner = file.integer("intermediate_size") if inner is None else inner
    if hidden % heads:
        raise file.error(hidden_key, f"must be a multiple of {heads_key}={heads}")
    if hidden // heads > _MAX_HEAD_DIM:
        raise file.error(hidden_key, f"must be at most {_MAX_HEAD_DIM:,} times {heads_key}={heads}")
    return Sizes(file.integer("vocab_size"), hidden, inner, heads, heads, hidden // heads)


def num_layers(file: ConfigFile, key: str = "num_hidden_layers") -> int:
    """Return the number of layers; bounded, because configs of layers are made before the weights are opened."""
    return file.integer(key, most=_MAX_LAYERS)


def alias(file: ConfigFile, *keys: str) -> str:
    """Return the first of several names of a setting that the file has; the first name if it has none.

    Raises CheckpointError if it has two that disagree.
    """
    there = [key for key in keys if file.says(key)]
    for key in there[1:]:
        if file.get(key) != file.get(there[0]):
            raise file.error(key, f"contradicts {there[0]}, its other name")
    return there[0] if there else keys[0]


def layer_types(file: ConfigFile, usual: list[str]) -> list[str]:
    """Return `layer_types`, a name per layer; `usual` if the file has none."""
    types = file.strings("layer_types")
    if types is None:
        return usual
    known = ("full_attention", "sliding_attention")
    if len(types) != len(usual):
        raise file.error("layer_types", f"must have one entry for each of num_hidden_layers={len(usual)}")
    if not all(name in known for name in types):
        raise file.unsupported("layer_types", f"must be {' or '.join(map(repr, known))}")
    return types


def refuse_unknown(file: ConfigFile, config: ModelConfig) -> None:
    """Raise UnsupportedModelError for a value that would change the result and was not read for `config`."""
    same = {"num_key_value_heads": (config.num_key_value_heads,), "head_dim": (config.head_dim,)}
    file.refuse_unread(NEUTRAL | same | {"attention_bias": (config.qkv_bias,)})


def special_token_ids(files: Sequence[ConfigFile], vocab_size: int, unasked: Collection[int] = ()) -> dict[str, Any]:
    """Return ModelConfig's bos_token_id, from the first of `files` that names one, and eos_token_ids, from all of them.

    A disagreement about the end tokens is logged.
    unasked: default ids that transformers writes for this architecture. They are ignored if the vocabulary is smaller.
    """
    starts, ends = (
        {source.path: ids for source in files if (ids := source.token_ids(key, vocab_size, unasked))}
        for key in ("bos_token_id", "eos_token_id")
    )
    bos = next(iter(starts.values()), ())
    if len(bos) > 1:
        raise files[-1].error("bos_token_id", "must be one token id")
    if len(set(map(frozenset, ends.values()))) > 1:
        named = " and ".join(f"{path.name} at ids {list(ids)}" for path, ids in ends.items())
        warn_once(f"{files[-1].path.parent}: a text ends by {named}; all of them end it")
    eos = dict.fromkeys(token_id for ids in ends.values() for token_id in ids)
    return {"bos_token_id": bos[0] if bos else None, "eos_token_ids": tuple(eos)}


NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_bias": (False,),
    "attention_chunk_size": (),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "clip_qkv": (),
    "embedding_multiplier": (1.0,),
    "final_logit_softcapping": (),
    "head_dim": (),
    "is_encoder_decoder": (False,),
    "layer_types": (),
    "lm_head_bias": (False,),
    "logit_scale": (1.0,),
    "logits_scaling": (1.0,),
    "mlp_bias": (False,),
    "no_rope_layers": ([],),
    "num_experts": (0,),
    "num_key_value_heads": (),
    "num_local_experts": (0, 1),
    "partial_rotary_factor": (1.0,),
    "per_layer_config": ({},),
    "qk_layernorm": (False,),
    "quantization_config": (),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1.0,),
    "rope_interleaved": (False,),
    "rope_local_base_freq": (),
    "rope_parameters": ({},),
    "rope_scaling": ({},),
    "rope_theta": (),
    "rotary_emb_base": (),
    "rotary_pct": (1.0,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "sliding_window": (),
    "use_bidirectional_attention": (False,),
    "use_mrope": (False,),
    "use_parallel_residual": (),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
}
"""Keys that change the result of some architecture, with the values that change nothing (null never does).

The reader of an architecture reads its own keys; any other key with a value that would matter is refused.
"""
