"""Networks: a checkpoint folder in, logits out."""

from decoding.models.batch import BLOCK_SIZE, ForwardBatch, KVCache, Model
from decoding.models.config import ModelConfig
from decoding.models.registry import load_config, load_model, load_network

__all__ = ["BLOCK_SIZE", "ForwardBatch", "KVCache", "Model", "ModelConfig", "load_config", "load_model", "load_network"]
