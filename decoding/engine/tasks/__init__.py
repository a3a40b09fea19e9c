"""Tasks: a request for a completion, or for the scores of given texts."""
