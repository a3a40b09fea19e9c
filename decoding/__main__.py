"""`python -m decoding` is the command `decoding`."""

import sys

_INTERRUPTED = 130


def main() -> int:
    """Run the command. Ctrl-C while it is imported ends it like Ctrl-C later."""
    try:
        from decoding.cli import main as command
    except KeyboardInterrupt:
        return _INTERRUPTED
    return command()


if __name__ == "__main__":
    sys.exit(main())
