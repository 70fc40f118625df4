"""The bar chart of a comparison: rows per second, the engine's own limit as a line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

LINES = ("--", ":", "-.")
COLOURS = {"batchqa": "#1f6f8b", "peer": "#b8b8b8"}


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
