"""Rows of logits to tokens: the pipeline, the sampler and its state, without a model."""
