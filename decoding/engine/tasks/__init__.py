"""Tasks of the engine: a completion, or the scores of given texts."""
