"""The Llama architecture in PyTorch, with Hugging Face parameter names.

The modules are named so that `state_dict()` is the shipped tensor layout, which any Llama loader reads without
renaming.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu


@dataclass(frozen=True)
class Config:
    """The shape of the network: small enough for a CPU, with grouped heads like large models."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Return the width of an attention head."""
        return self.hidden_size // self.num_attention_heads


def rotary_tables(length: int, config: Config) -> tuple[Tensor, Tensor]:
    """Return cosines and sines per position; the second half of a head repeats the first (Llama's layout)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32), config.rope_theta**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each (i, i + head_dim/2) pair of a head by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def visible(texts: Tensor, *, alone: bool) -> Tensor:
    """Return an additive attention mask (batch, 1, 1, l, l): 0 for earlier tokens of the same text, -1e9 for others."""
    length = texts.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril()[None]
    if not alone:
        seen = seen & (texts[:, :, None] == texts[:, None, :])
    return torch.where(seen, 0.0, -1e9)[:, None, None]


class RMSNorm(nn.Module):
    """A layer that scales each vector to unit root mean square and multiplies it by a learned weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return rms_norm(x, (len(self.weight),), self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention whose query heads share fewer key/value heads, to keep the cache small."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        key_value_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_value_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_value_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        """Split the last dimension into heads: (batch, heads, length, head_dim)."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Return the attention output per position.

        mask: (batch or 1, 1, 1, length, length), added to the scores. The steps are written out, because the compiler's
        softmax is faster than PyTorch's own attention on a CPU.
        """
        q = rotate(self.heads(self.q_proj(x)), cos, sin)
        k = rotate(self.heads(self.k_proj(x)), cos, sin).to(x.dtype)
        v = self.heads(self.v_proj(x))
        batch, heads, length, size = q.shape
        grouped = (q * size**-0.5).to(x.dtype).reshape(batch, k.shape[1], -1, size)
        scores = (grouped @ k.transpose(2, 3)).float().view(batch, k.shape[1], -1, length, length)
        weights = (scores + mask).softmax(-1).to(x.dtype).view(batch, k.shape[1], -1, length)
        mixed = (weights @ v).view(batch, heads, length, size)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """The gated feed-forward block (SwiGLU)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position independently."""
        out: Tensor = self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention, then the feed-forward block, each on a normalised residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Add the outputs of both blocks to the residual stream."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Trunk(nn.Module):
    """Embedding, layers and final norm, in a module so that parameter names start with `model.`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """The whole model. The output layer is the embedding (tied weights)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        cos, sin = rotary_tables(config.max_position_embeddings, config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """Set normal weights of deviation 0.02, smaller where a block's output joins the residual stream."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, Layer):
            for last in (module.self_attn.o_proj, module.mlp.down_proj):
                nn.init.normal_(last.weight, std=0.02 / (2 * self.config.num_hidden_layers) ** 0.5)

    def forward(self, ids: Tensor, texts: Tensor | None = None) -> Tensor:
        """Return logits of the next token at every position of token ids (batch, length).

        texts: number of the text of each token, of the same shape; None if all belong to one text.
        """
        length = ids.shape[1]
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
        mask = visible(ids if texts is None else texts, alone=texts is None)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return linear(self.model.norm(x), self.model.embed_tokens.weight)
