"""The report of benchmarks/sampler.py as text, and as a plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from decoding.cli.measure import NUM_ROWS, WORKS, machine_lines

BOUNDS = {
    "greedy, peaked": 1.3,
    "top_k + top_p + min_p, peaked": 2.5,
    "top_k + top_p + min_p, flat": 2.5,
    "temperature, peaked": 5.0,
    "temperature, flat": 5.0,
    "top_p, peaked": 10.0,
    "top_p, flat": 15.0,
    "everything, peaked": 12.0,
    "everything, flat": 12.0,
}
"""What the project has set itself, in passes over the row, for vocabularies of 128,256 and more."""

WIDEST = {title.partition(",")[0]: bound for title, bound in BOUNDS.items()}
"""Bound by work alone: the larger one where rows differ."""

MEMORY_BOUNDS = {"greedy": 1.1, "temperature": 2.5, "top_k + top_p + min_p": 1.4, "everything": 5.0}
ODD_SLACK = 2.0
BOUNDED_FROM = 128_256
OVERHEAD_BOUNDS = (3.0, 0.3)
AVX2_BOUND, HALF_BOUND = 2.0, 1.0
"""Time on AVX2 over time on AVX-512; of a row of 16-bit logits over one of float32, the same number of them."""

MEASURABLE = 1.05
"""Two figures this close are equal: no run can tell them apart."""

Figures = Sequence[Mapping[str, Any]]


def text(found: Mapping[str, Any]) -> str:
    """All tables."""
    sections = (floors, works, isas, odd_rows, memory, overhead, verdict)
    return "\n\n".join(["\n".join(heading(found)), *("\n".join(section(found)) for section in sections)])


def heading(found: Mapping[str, Any]) -> Iterable[str]:
    """What was measured on what."""
    yield from machine_lines(found["machine"])
    yield f"1x      {found['floor']}, over as many float32 logits"
    yield "peers   " + "; ".join(f"{name} {version}" for name, version in found["peers"].items())
    yield from (f"        {note}" for note in found["notes"])
    yield f"us      per row, one thread; minimum over repeats, median of {NUM_ROWS} rows; 'worst': of the worst row"


def pick(found: Mapping[str, Any], section: str, **wanted: Any) -> list[Mapping[str, Any]]:
    """The figures of a section for which all these things hold."""
    every: Figures = found["figures"]
    return [one for one in every if one["section"] == section and all(one[k] == v for k, v in wanted.items())]


def unit(found: Mapping[str, Any], vocab_size: int) -> float:
    """Microseconds of 1x."""
    (floor,) = pick(found, "floor", work="max", engine="floor", vocab_size=vocab_size)
    return float(floor["us"])


def sizes(found: Mapping[str, Any], section: str) -> list[int]:
    """Vocabulary sizes that a section has."""
    return sorted({one["vocab_size"] for one in pick(found, section)})


def floors(found: Mapping[str, Any]) -> Iterable[str]:
    """The unit, and what other passes cost."""
    yield f"{'passes over a row in cache':<31}{'max (1x)':>10}{'exp-sum':>9}{'numpy.max':>11}{'numpy.argmax':>14}"
    for size in sizes(found, "floor"):
        one = unit(found, size)
        others = (("exp-sum", "floor", 8), ("max", "numpy", 10), ("argmax", "numpy", 13))
        cells = (
            f"{figure['us'] / one:>{width}.1f}x"
            for work, engine, width in others
            for figure in pick(found, "floor", work=work, engine=engine, vocab_size=size)
        )
        yield f"  {size:>9,} logits{'':<13}{one:>7.2f} us{''.join(cells)}"


def works(found: Mapping[str, Any]) -> Iterable[str]:
    """The main table: the kernel's time and ratio, its bound, and the others' ratios."""
    peers = list(found["peers"])
    columns = "".join(f"{name:>{max(9, len(name) + 2)}}" for name in ("plain", *peers))
    head = f"{'us':>9}{'median':>9}{'ratio':>8}{'worst':>8}{'bound':>7}{'':>8}{'Sampler':>10}{columns}"
    for size in sizes(found, "works"):
        one = unit(found, size)
        (*_, kernel) = pick(found, "works", vocab_size=size, engine="kernel")
        yield f"{f'{size:,} logits, ' + kernel['isa']:<31}{head}"
        for work in WORKS:
            row = {figure["engine"]: figure for figure in pick(found, "works", vocab_size=size, work=work.title)}
            others = "".join(_ratio(row.get(name), one, max(9, len(name) + 2)) for name in ("plain", *peers))
            bound = BOUNDS[work.title] if size >= BOUNDED_FROM else None
            sampler = f"{row['python']['us']:>7.1f} us"
            yield f"  {work.title:<29}{_against(row['kernel'], one, bound)}{sampler}{others}"


def _against(figure: Mapping[str, Any], one: float, bound: float | None) -> str:
    """Time, ratio, and how it stands to its bound, which the median row decides."""
    ratio, worst = figure["us"] / one, figure["worst_row_us"] / one
    stands = f"{'':>15}" if bound is None else f"{bound:>6g}x{'met' if ratio <= bound else 'MISSED':>8}"
    return f"{figure['us']:>9.1f}{figure['median_us']:>9.1f}{ratio:>7.2f}x{worst:>7.1f}x{stands}"


def _ratio(figure: Mapping[str, Any] | None, one: float, width: int) -> str:
    return f"{'-':>{width}}" if figure is None else f"{figure['us'] / one:>{width - 1},.0f}x"


def isas(found: Mapping[str, Any]) -> Iterable[str]:
    """Ratios for each instruction set and element type, all to the same 1x."""
    figures = pick(found, "isas")
    columns = list(dict.fromkeys((one["isa"], one["dtype"]) for one in figures))
    (size,) = sizes(found, "isas")
    yield f"{f'{size:,} logits':<31}" + "".join(f"{isa:>10}" for isa, _ in columns)
    yield f"{'':<31}" + "".join(f"{dtype:>10}" for _, dtype in columns)
    for work in WORKS:
        row = {
            (one["isa"], one["dtype"]): one["us"] / unit(found, size) for one in figures if one["work"] == work.title
        }
        yield f"  {work.title:<29}" + "".join(f"{row[column]:>9.1f}x" for column in columns)


def odd_rows(found: Mapping[str, Any]) -> Iterable[str]:
    """Ratios on odd rows; a star where twice the bound is missed."""
    (size,) = sizes(found, "odd")
    figures = {tuple(one["work"].split(", ")): one["us"] / unit(found, size) for one in pick(found, "odd")}
    names = list(dict.fromkeys(name for _, name in figures))
    yield f"{f'{size:,} logits, odd rows':<31}" + "".join(f"{name:>16}" for name in names)
    for work in dict.fromkeys(work for work, _ in figures):
        limit = ODD_SLACK * WIDEST[work]
        cells = (f"{figures[work, name]:>14.1f}x{'*' if figures[work, name] > limit else ' '}" for name in names)
        yield f"  {work:<29}{''.join(cells)}"
    yield "  * more than twice the work's bound"


def memory(found: Mapping[str, Any]) -> Iterable[str]:
    """Many rows from memory; 1x is the same pass over those rows with as many threads."""
    figures = pick(found, "memory")
    (rows,), (size,) = {one["num_rows"] for one in figures}, sizes(found, "memory")
    yield f"{rows} rows of {size:,} from memory{'':<4}{'threads':>8}{'us':>9}{'ratio':>8}{'bound':>7}"
    for one in figures:
        (floor,) = pick(found, "memory", engine="floor", threads=one["threads"])
        bound = MEMORY_BOUNDS.get(one["work"])
        stands = f"{bound:>6g}x" if bound and one["threads"] == 2 else ""
        label = "max pass (1x)" if one["engine"] == "floor" else one["work"]
        yield f"  {label:<34}{one['threads']:>6}{one['us']:>9.1f}{one['us'] / floor['us']:>7.2f}x{stands}"


def python_overhead(found: Mapping[str, Any]) -> tuple[float, float]:
    """Microseconds that `Sampler.sample` adds to the kernel: for a call of one row, and for each further row."""
    us = {(one["engine"], one["num_rows"]): one["us"] for one in pick(found, "overhead")}
    (few, many) = sorted({num_rows for _, num_rows in us})
    first = us["python", few] - us["kernel", few]
    return first, (us["python", many] - us["kernel", many] - first) / (many - few)


def overhead(found: Mapping[str, Any]) -> Iterable[str]:
    """What Python adds to a call."""
    first, further = python_overhead(found)
    yield (
        f"Sampler.sample beyond the kernel: {first:.1f} us for a call of one row (bound {OVERHEAD_BOUNDS[0]:g}),"
        f" {further:.2f} us for each further row (bound {OVERHEAD_BOUNDS[1]:g})"
    )


def verdict(found: Mapping[str, Any]) -> Iterable[str]:
    """The bounds that are not met, by name."""
    missed = list(missed_bounds(found))
    yield f"bounds missed: {len(missed) or 'none'}"
    yield from (f"  {line}" for line in missed)


def missed_bounds(found: Mapping[str, Any]) -> Iterable[str]:
    """A line for each."""
    for one in pick(found, "works", engine="kernel"):
        if one["vocab_size"] >= BOUNDED_FROM:
            what = f"{one['work']}, {one['vocab_size']:,} logits"
            yield from _missed(what, one["us"] / unit(found, one["vocab_size"]), BOUNDS[one["work"]])
    for one in pick(found, "odd"):
        bound = ODD_SLACK * WIDEST[one["work"].split(", ")[0]]
        yield from _missed(one["work"], one["us"] / unit(found, one["vocab_size"]), bound)
    for one in pick(found, "memory", engine="kernel", threads=2):
        (floor,) = pick(found, "memory", engine="floor", threads=2)
        bound = MEMORY_BOUNDS.get(one["work"], float("inf"))
        yield from _missed(f"from memory, 2 threads: {one['work']}", one["us"] / floor["us"], bound)
    yield from _missed_between_sets(found)
    for what, us, bound in zip(("one row", "each further row"), python_overhead(found), OVERHEAD_BOUNDS, strict=True):
        if us > bound:
            yield f"Python's part of a call, {what}: {us:.3f} us instead of {bound:g} us"


def _missed(what: str, ratio: float, bound: float, slack: float = 1.0) -> Iterable[str]:
    if ratio > bound * slack:
        yield f"{what}: {ratio:.2f}x instead of {bound:g}x"


def _missed_between_sets(found: Mapping[str, Any]) -> Iterable[str]:
    """AVX2 against AVX-512, and element types of 16 bits against float32 on the widest set."""
    us = {(one["isa"], one["dtype"], one["work"]): one["us"] for one in pick(found, "isas")}
    widest = next((isa for isa, _, _ in us), "")
    for (isa, dtype, work), time in us.items():
        if isa == "avx2" and widest == "avx512":
            ratio = time / us[widest, dtype, work]
            yield from _missed(f"avx2 over avx512, {work}, {dtype}", ratio, AVX2_BOUND, MEASURABLE)
        if isa == widest and dtype != "float32":
            ratio = time / us[isa, "float32", work]
            yield from _missed(f"{dtype} over float32, {work}", ratio, HALF_BOUND, MEASURABLE)


def plot(found: Mapping[str, Any], path: str) -> None:
    """Ratios of the kernel and its peers, a group of bars for each work, on a logarithmic axis."""
    from matplotlib.figure import Figure

    size = sizes(found, "isas")[0]
    engines = ["kernel", *found["peers"]]
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes: Any = figure.subplots()
    for place, engine in enumerate(engines):
        figures = pick(found, "works", engine=engine, vocab_size=size)
        ratios = {one["work"]: one["us"] / unit(found, size) for one in figures}
        at: Callable[[int], float] = lambda i, place=place: i + place / (len(engines) + 1)  # noqa: E731
        bars = [(at(i), ratios[work.title]) for i, work in enumerate(WORKS) if work.title in ratios]
        axes.bar(*zip(*bars, strict=True), width=1 / (len(engines) + 1), label=engine)
    axes.set_yscale("log")
    axes.set_ylabel(f"passes over the row ({unit(found, size):.1f} us)")
    axes.set_xticks(
        range(len(WORKS)), [work.title.replace(" + ", "\n+ ").replace(", ", "\n") for work in WORKS], fontsize=7
    )
    axes.set_title(f"One row of {size:,} logits")
    axes.legend()
    figure.savefig(path)
