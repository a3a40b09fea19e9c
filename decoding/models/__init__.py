"""The forward pass in numpy: a checkpoint folder in, logits out."""

from decoding.models.batch import ForwardBatch
from decoding.models.cache import KVCache
from decoding.models.config import ModelConfig
from decoding.models.registry import load_config, load_model
from decoding.models.transformer import Transformer

__all__ = ["ForwardBatch", "KVCache", "ModelConfig", "Transformer", "load_config", "load_model"]
