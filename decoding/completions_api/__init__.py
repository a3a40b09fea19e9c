"""The Completions API without a web framework: requests read, results and errors written, batch files."""
