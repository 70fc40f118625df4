"""Charts: a comparison as bars, the engine's own limit as a line; how something grows, as curves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LINES = ("--", ":", "-.")
CURVES = ("#1f6f8b", "#d1843b", "#777777")
COLOURS = {"batchqa": "#1f6f8b", "peer": "#b8b8b8"}


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over one quantity: name -> (x, y) points. `log` names the axes that are logarithmic."""

    title: str
    x: str
    y: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    log: str = "xy"


def draw_growth(panels: Sequence[Panel], file: Path, title: str) -> None:
    """Draw panels, two in a row."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9, 3 * rows), layout="constrained", squeeze=False)
    for place, panel in zip(axes.flat, panels, strict=False):
        for (name, points), colour in zip(panel.curves.items(), CURVES, strict=False):
            place.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=4)
        place.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        place.margins(y=0.1)
        if "x" in panel.log:
            place.set_xscale("log")
        else:
            place.set_xlim(left=0)
        if "y" in panel.log:
            place.set_yscale("log")
        else:
            place.set_ylim(bottom=0)
        for axis in (place.xaxis, place.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axis.set_minor_formatter(NullFormatter())
        if len(panel.curves) > 1:
            place.legend(fontsize=8, frameon=False)
        place.title.set_size(10)
        place.grid(alpha=0.3, which="major")
        place.spines[["top", "right"]].set_visible(False)
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    figure.suptitle(title, fontsize=9)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def draw(speeds: Sequence[tuple[str, str, float]], file: Path, title: str) -> None:
    """Draw (name, kind, rows/s): a bar each, a line for the kind "limit"."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    bars = sorted((entry for entry in speeds if entry[1] != "limit"), key=lambda entry: entry[2])
    limits = [entry for entry in speeds if entry[1] == "limit"]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(bars) + 1.3), layout="constrained")
    names, kinds, values = zip(*bars, strict=True)
    drawn = axes.barh(names, values, color=[COLOURS[kind] for kind in kinds])
    axes.bar_label(drawn, fmt="%.0f", padding=3)
    for (name, _, value), style in zip(limits, itertools.cycle(LINES), strict=False):
        axes.axvline(value, color="#444", linewidth=1, linestyle=style, label=f"{name}: {value:.0f}")
    if limits:
        axes.legend(loc="lower right", fontsize=8, frameon=False)
    axes.set_xlabel("rows per second (median)")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
