"""One module per model family: its config.json and the names of its tensors."""
