"""The decoding loop: requests in, completions out, many at once."""
