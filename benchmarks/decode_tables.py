"""The report of benchmarks/decode.py as text, and as a plot."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.shapes import NETWORKS
from decoding.cli.measure import machine_lines

TARGETS = {
    **{("prefill", size, "transformers"): 1.0 for size in NETWORKS},
    **{("decode 1", size, "llama.cpp"): 1.0 for size in NETWORKS},
    **{("decode 32", size, "transformers"): 1.5 for size in ("15M", "110M")},
}
"""Ratios that the project has set itself, by job, network and peer."""


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over rounds of our rate over theirs."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def lines(found: Mapping[str, Any]) -> Iterable[str]:
    """The table."""
    yield from machine_lines(found["machine"])
    yield "engines " + "; ".join(f"{engine} {version}" for engine, version in found["engines"].items())
    yield "tokens/s: median of the rounds, slowest and fastest round over it; ratio: ours over theirs, round by round;"
    yield "others: CPUs that other programs took meanwhile, on average"
    for size in dict.fromkeys(figure["network"] for figure in found["figures"]):
        yield ""
        yield from _network(size, [figure for figure in found["figures"] if figure["network"] == size])


def _network(size: str, figures: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    peers = [engine for engine in figures[0]["rates"] if engine != "decoding"]
    head = "".join(f"{engine:>24}" for engine in ("decoding", *peers)) + "".join(f"{f'to {p}':>18}" for p in peers)
    yield f"{f'{size}: {NETWORKS[size].num_weights / 1e6:.1f}M weights':<22}{head}{'others':>8}"
    for figure in figures:
        rates = figure["rates"]
        cells = "".join(f"{_rate(rates[engine]):>24}" for engine in ("decoding", *peers))
        cells += "".join(f"{_ratio(figure, peer):>18}" for peer in peers)
        yield f"  {figure['job']:<20}{cells}{statistics.mean(figure['others']):>8.1f}"


def _rate(rates: Sequence[float]) -> str:
    middle = statistics.median(rates)
    return f"{middle:,.{1 if middle < 100 else 0}f} ({min(rates) / middle:.2f}..{max(rates) / middle:.2f})"


def _ratio(figure: Mapping[str, Any], peer: str) -> str:
    found = ratio(figure["rates"]["decoding"], figure["rates"][peer])
    target = TARGETS.get((figure["job"], figure["network"], peer))
    stands = "" if target is None else f" {'met' if found >= target else 'MISSED'} {target:g}x"
    return f"{found:.2f}x{stands}"


def plot(found: Mapping[str, Any], path: str) -> None:
    """Rates over ours, a panel for each network."""
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(figure["network"] for figure in found["figures"]))
    drawing = Figure(figsize=(4.5 * len(sizes), 4), layout="constrained")
    engines = list(found["engines"])
    for axes, size in zip(drawing.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        figures = [figure for figure in found["figures"] if figure["network"] == size]
        for place, engine in enumerate(engines):
            heights = [ratio(figure["rates"][engine], figure["rates"]["decoding"]) for figure in figures]
            where = [number + place / (len(engines) + 1) for number in range(len(figures))]
            axes.bar(where, heights, 1 / (len(engines) + 1), label=engine)
        axes.set_xticks(range(len(figures)), [figure["job"] for figure in figures], fontsize=8)
        axes.set_title(f"{size}: tokens/s over ours")
        axes.legend(fontsize=8)
    drawing.savefig(path)
