"""Formats the table of a comparison: for a terminal, as Markdown, as CSV and as a plot."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from jaxtag.comparison.grid import ARCHITECTURES, DATASETS
from jaxtag.comparison.reference_results import REFERENCE_RESULTS

# (architecture, data set) -> results of all seeds, or why there are none
Results = dict[tuple[str, str], list[dict[str, Any]] | str]

_COLUMNS = (
    *("architecture", "dataset", "metric", "value", "spread", "seeds", "split", "image_size"),
    *("pretraining", "pictures", "parameters", "multiply_adds", "seconds", "peak_memory_bytes"),
    *("published_metric", "published_value", "published_source", "absent"),
)


def rows(results: Results) -> list[dict[str, Any]]:
    """One row for each cell: the columns of the CSV.

    Values are means over seeds, `spread` their standard deviation.
    """
    cells = []
    for (architecture, dataset), runs in results.items():
        row: dict[str, Any] = dict.fromkeys(_COLUMNS, "")
        row |= {"architecture": architecture, "dataset": dataset}
        if reference := REFERENCE_RESULTS.get((architecture, dataset)):
            row["published_metric"] = reference.metric
            row["published_value"] = reference.value
            row["published_source"] = reference.source
        if isinstance(runs, str):
            row["absent"] = runs
        else:
            first, values = runs[0], [run["value"] for run in runs]
            shared = ("metric", "split", "image_size", "pretraining", "pictures", "parameters")
            row |= {name: first[name] for name in (*shared, "multiply_adds")}
            row |= {"value": statistics.fmean(values), "seeds": len(values)}
            row["spread"] = statistics.stdev(values) if len(values) > 1 else ""
            row["seconds"] = statistics.fmean(run["seconds"] for run in runs)
            row["peak_memory_bytes"] = max(run["peak_memory_bytes"] for run in runs)
        cells.append(row)
    return cells


def as_csv(results: Results) -> str:
    """All cells with all columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    writer.writerows(rows(results))
    return text.getvalue()


def as_markdown(results: Results) -> str:
    """Architectures by data sets, then the cost of each cell."""
    architectures, datasets = _axes(results)
    lines = _markdown(
        ["", "weights", *(_heading(dataset) for dataset in datasets)],
        [[*_row_names(a), *(_cell(results[a, d], a, d) for d in datasets)] for a in architectures],
    )
    costs = []
    for row in rows(results):
        if row["absent"]:
            continue
        costs.append(
            [
                ARCHITECTURES[row["architecture"]].title,
                DATASETS[row["dataset"]].title,
                f"{row['image_size']} px",
                row["pretraining"],
                f"{row['pictures']:,} x {row['seeds']}",
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['multiply_adds'] / 1e6:,.1f} M",
                f"{row['seconds']:,.0f} s",
                f"{row['peak_memory_bytes'] / 2**30:.1f} GiB",
            ]
        )
    heading = ["architecture", "data set", "resolution", "pretraining", "images x seeds"]
    heading += ["parameters", "multiply-adds", "training", "peak memory"]
    return "\n".join([*lines, "", *_markdown(heading, costs)]) + "\n"


def as_text(results: Results) -> str:
    """Architectures by data sets, for a terminal."""
    architectures, datasets = _axes(results)
    table = [["", "weights", *(_heading(dataset) for dataset in datasets)]]
    table += [
        [*_row_names(a), *(_cell(results[a, d], a, d) for d in datasets)] for a in architectures
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def as_svg(results: Results) -> str:
    """A plot for each data set: the metric over the multiply-adds per image."""
    _, datasets = _axes(results)
    present = {
        dataset: [row for row in rows(results) if row["dataset"] == dataset and not row["absent"]]
        for dataset in datasets
    }
    panels = [_panel(DATASETS[d].title, cells) for d, cells in present.items() if cells]
    width, height = 420 * max(len(panels), 1), 320
    shifted = [f'<g transform="translate({420 * n} 0)">{p}</g>' for n, p in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>{"".join(shifted)}</svg>\n'
    )


def _panel(title: str, cells: Sequence[dict[str, Any]]) -> str:
    left, right, top, bottom = 50, 400, 40, 270
    costs = [math.log10(row["multiply_adds"]) for row in cells]
    values = [row["value"] for row in cells]
    low_cost, high_cost = math.floor(min(costs)), math.ceil(max(costs) + 1e-9)
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def position(cost: float, value: float) -> tuple[float, float]:
        x = left + (cost - low_cost) / max(high_cost - low_cost, 1) * (right - left)
        return x, bottom - (value - low) / (high - low) * (bottom - top)

    parts = [f'<text x="{left}" y="22" font-size="15">{escape(title)}</text>']
    parts.append(f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#888"/>')
    for power in range(low_cost, high_cost + 1):
        x, _ = position(power, low)
        parts.append(f'<text x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">1e{power}</text>')
    for step in range(5):
        value = low + (high - low) * step / 4
        _, y = position(low_cost, value)
        parts.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{value:.2f}</text>')
    parts.append(f'<text x="{left}" y="{bottom + 34}">multiply-adds per image</text>')
    parts.append(f'<text x="{left + 4}" y="{top - 4}" fill="#666">{cells[0]["metric"]}</text>')
    for row, cost in zip(cells, costs, strict=True):
        x, y = position(cost, row["value"])
        at_end = x > (left + right) / 2
        title, weights = _row_names(row["architecture"])
        name = escape(title if weights == "random" else f"{title} ({weights})")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1d4ed8"/>')
        anchor, shift = ("end", -7) if at_end else ("start", 7)
        parts.append(
            f'<text x="{x + shift:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{name}</text>'
        )
    return "".join(parts)


def _axes(results: Results) -> tuple[list[str], list[str]]:
    architectures, datasets = zip(*results, strict=True)
    return list(dict.fromkeys(architectures)), list(dict.fromkeys(datasets))


def _row_names(architecture: str) -> list[str]:
    """The survey's name of a row, and what it starts from."""
    row = ARCHITECTURES[architecture]
    return [row.title, "random" if row.pretrained is None else "ImageNet, frozen"]


def _heading(dataset: str) -> str:
    column = DATASETS[dataset]
    return f"{column.title} ({column.metric}, {column.split})"


def _cell(runs: list[dict[str, Any]] | str, architecture: str, dataset: str) -> str:
    if isinstance(runs, str):
        text = runs
    else:
        values = [run["value"] for run in runs]
        text = f"{statistics.fmean(values):.4f}"
        if len(values) > 1:
            text += f" ± {statistics.stdev(values):.4f}"
    if reference := REFERENCE_RESULTS.get((architecture, dataset)):
        text += f" (paper: {reference.value:.4g})"
    return text


def _markdown(heading: list[str], table: list[list[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *table]
    return [f"| {' | '.join(line)} |" for line in lines]
