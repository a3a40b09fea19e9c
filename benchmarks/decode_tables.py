"""Format the report of benchmarks/decode.py as text and as a plot."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.shapes import NETWORKS
from decoding.cli.measure import machine, machine_lines

QUANTISED = ("q8_0", "q4_0", "q4_1", "q4_k", "file")


class Bound(NamedTuple):
    """A ratio that the project has set itself.

    networks: those that it holds for; none: all but the smallest, and files.
    """

    job: str
    types: Sequence[str]
    ours: str
    peer: str
    ratio: float
    networks: Sequence[str] = ()

    def covers(self, figure: Mapping[str, Any]) -> bool:
        """Return True if the bound applies to this figure."""
        inside = figure["network"] in self.networks if self.networks else figure["network"] != "15M"
        return inside and figure["job"] == self.job and figure["type"] in self.types


BOUNDS = (
    Bound("decode 1", ("float32", "bfloat16"), "decoding", "read pass", 0.8),
    Bound("decode 1", ("float32", "bfloat16"), "LLM", "read pass", 0.8),
    Bound("decode 1", QUANTISED, "LLM", "read pass", 0.7),
    Bound("decode 1", ("float32",), "LLM", "llama.cpp", 1.3, ("15M",)),
    Bound("decode 1", ("float32",), "LLM", "llama.cpp", 1.15, ("110M",)),
    Bound("decode 1", ("bfloat16",), "LLM", "llama.cpp", 1.4, ("110M",)),
    Bound("decode 1", QUANTISED, "LLM", "llama.cpp", 1.2),
    Bound("decode 32", ("float32",), "LLM", "transformers", 2.0, tuple(NETWORKS)),
    Bound("decode 32", ("float32",), "LLM", "llama.cpp", 2.0, tuple(NETWORKS)),
    Bound("decode 32", ("q8_0",), "LLM", "llama.cpp", 3.0),
    Bound("prefill 512", ("float32",), "LLM", "transformers", 1.5, tuple(NETWORKS)),
    Bound("prefill 512", ("float32",), "LLM", "llama.cpp", 1.2, tuple(NETWORKS)),
    Bound("prefill 512", ("q8_0",), "LLM", "llama.cpp", 1.3),
)

RATIOS = (("LLM", "llama.cpp"), ("LLM", "transformers"), ("decoding", "read pass"), ("LLM", "read pass"))
"""The ratios that the table has, where both took part."""


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the ratio of our rate to theirs, the median over rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def head() -> Iterable[str]:
    """Return the lines before the tables."""
    yield from machine_lines(machine())
    yield "tokens/s: median of the rounds, slowest and fastest round over it; ratio: ours over theirs, round by round;"
    yield "decoding: the forward pass alone; LLM: LLM.complete; read pass: of the weights' bytes, passes/s;"
    yield "others: CPUs that other programs took meanwhile, on average"


def case_lines(figures: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Return the table of one network and type."""
    engines, first = list(figures[0]["rates"]), figures[0]
    pairs = [pair for pair in RATIOS if set(pair) <= set(engines)]
    titles = "".join(f"{engine:>23}" for engine in engines) + "".join(f"{f'{a}/{b}':>22}" for a, b in pairs)
    yield ""
    yield f"{first['network'][:24] + ' ' + first['type']:<16}{titles}{'others':>8}"
    for figure in figures:
        cells = "".join(f"{_rate(figure['rates'][engine]):>23}" for engine in engines)
        cells += "".join(f"{_ratio(figure, *pair):>22}" for pair in pairs)
        yield f"  {figure['job']:<14}{cells}{statistics.mean(figure['others']):>8.1f}"


def tail(found: Mapping[str, Any]) -> Iterable[str]:
    """Return the lines after the tables: versions, and the bounds that were missed."""
    yield ""
    yield "engines " + "; ".join(f"{engine} {version}" for engine, version in found["engines"].items())
    results = [(figure, bound) for figure in found["figures"] for bound in BOUNDS if _is_asked(figure, bound)]
    missed = [(figure, bound) for figure, bound in results if _value(figure, bound) < bound.ratio]
    yield f"bounds: {len(results) - len(missed)} met, {len(missed)} missed"
    for figure, bound in missed:
        name = f"{figure['network']} {figure['type']}, {bound.job}"
        yield f"  {name}: {bound.ours} {_value(figure, bound):.2f}x {bound.peer} instead of {bound.ratio:g}x"


def _is_asked(figure: Mapping[str, Any], bound: Bound) -> bool:
    return bound.covers(figure) and {bound.ours, bound.peer} <= set(figure["rates"])


def _value(figure: Mapping[str, Any], bound: Bound) -> float:
    return ratio(figure["rates"][bound.ours], figure["rates"][bound.peer])


def _rate(rates: Sequence[float]) -> str:
    middle = statistics.median(rates)
    if middle == 0:
        return "-"
    return f"{middle:,.{1 if middle < 100 else 0}f} ({min(rates) / middle:.2f}..{max(rates) / middle:.2f})"


def _ratio(figure: Mapping[str, Any], ours: str, peer: str) -> str:
    if not any(figure["rates"][peer]):
        return "-"
    value = ratio(figure["rates"][ours], figure["rates"][peer])
    bounds = [bound.ratio for bound in BOUNDS if bound.covers(figure) and (bound.ours, bound.peer) == (ours, peer)]
    stands = f" {'met' if value >= bounds[0] else 'MISSED'} {bounds[0]:g}x" if bounds else ""
    return f"{value:.2f}x{stands}"


def plot(found: Mapping[str, Any], path: str) -> None:
    """Draw rates relative to ours, one panel per network and type."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys((figure["network"], figure["type"]) for figure in found["figures"]))
    drawing = Figure(figsize=(4.5 * len(names), 4), layout="constrained")
    for axes, name in zip(drawing.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        figures = [figure for figure in found["figures"] if (figure["network"], figure["type"]) == name]
        engines = [engine for engine in figures[0]["rates"] if engine != "read pass"]
        for place, engine in enumerate(engines):
            heights = [ratio(figure["rates"][engine], figure["rates"]["decoding"]) for figure in figures]
            where = [number + place / (len(engines) + 1) for number in range(len(figures))]
            axes.bar(where, heights, 1 / (len(engines) + 1), label=engine)
        axes.set_xticks(range(len(figures)), [figure["job"] for figure in figures], fontsize=8)
        axes.set_title(f"{' '.join(name)}: tokens/s over ours")
        axes.legend(fontsize=8)
    drawing.savefig(path)
