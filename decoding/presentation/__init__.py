"""Probabilities and tokens for people: the scale of colours, and HTML for notebooks and pages."""
