"""The Completions API's JSON: results on their way out, no web framework."""
