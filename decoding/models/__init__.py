"""The forward pass in numpy: a checkpoint folder in, logits out."""

from decoding.models.batch import ForwardBatch
from decoding.models.cache import KVCache
from decoding.models.config import ModelConfig
from decoding.models.llama import LlamaModel
from decoding.models.registry import load_model

__all__ = ["ForwardBatch", "KVCache", "LlamaModel", "ModelConfig", "load_model"]
