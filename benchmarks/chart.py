"""The bar chart of a comparison: rows per second, the engine's own limit as a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

COLOURS = {"batchqa": "#1f6f8b", "peer": "#b8b8b8"}


def draw(speeds: Sequence[tuple[str, str, float]], file: Path, title: str) -> None:
    """Draw (name, kind, rows/s); of the kind "limit" the fastest is a line, the others are left out."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    bars = sorted((entry for entry in speeds if entry[1] != "limit"), key=lambda entry: entry[2])
    limits = [entry for entry in speeds if entry[1] == "limit"]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(bars) + 1.3), layout="constrained")
    names, kinds, values = zip(*bars, strict=True)
    drawn = axes.barh(names, values, color=[COLOURS[kind] for kind in kinds])
    axes.bar_label(drawn, fmt="%.0f", padding=3)
    for name, _, value in limits:
        axes.axvline(value, color="#444", linewidth=1, linestyle="--")
        axes.text(value, -0.75, f" {name}", fontsize=7, color="#444", ha="right")
    axes.set_xlabel("rows per second (median)")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
