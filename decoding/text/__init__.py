"""From text to token ids and back: tokenizers, incremental detokenising, stop strings."""
