"""The command `decoding`: a module per command."""

from decoding.cli.command import main

__all__ = ["main"]
