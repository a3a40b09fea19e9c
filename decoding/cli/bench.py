"""`decoding bench`: measure this machine. decoding.cli.measure does the work."""

from __future__ import annotations

import argparse
import json
from typing import Any

from decoding.cli.flags import integer
from decoding.file_output import write_whole


def add_bench(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "bench",
        help="measure this machine",
        description="Measure sampling on every instruction set of this CPU, and decoding with the bundled model.",
    )
    command.add_argument(
        "--vocab", type=integer, default=151_936, metavar="N", help="logits per row, 2,000 or more (default: 151936)"
    )
    command.add_argument("--json", metavar="FILE", help="also write all figures to a file")
    command.set_defaults(run=_bench)


def _bench(options: argparse.Namespace, _: list[str]) -> None:
    from decoding.cli import measure

    found = measure.report(options.vocab)
    print(measure.table(found))
    if options.json:
        write_whole(options.json, json.dumps(found, indent=1) + "\n")
