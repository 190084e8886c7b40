"""The study's picture: a pitch tracker before and after, what it hears, and what is left of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from studies.pitch.data import NOISE

if TYPE_CHECKING:
    from pathlib import Path

    from studies.rows import Rows

OCTAVE = 1200  # cents
GREY, BLUE, RED = "0.72", "#1f6fb4", "#d1495b"


def draw(tracks: Rows, layers: dict[str, list[int]], shown: dict[str, str], file: Path) -> None:
    """Draw what networks make of a melody, and the widths of two of them.

    Args:
        tracks: Pitches in Hz of each frame: the true one and those of networks.
        layers: Name of a network -> channels of its convolutions: the dense network and what is left.
        shown: Column of a network -> its title; the last one is ours.
        file: Where the picture goes.
    """
    mpl.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(
        1, len(shown) + 1, figsize=(11.5, 3.1), layout="constrained", width_ratios=[1.15] * len(shown) + [1]
    )
    last = list(shown)[-1]
    for axis, (name, title) in zip(axes, shown.items(), strict=False):
        _heard(axis, tracks, name, BLUE if name == last else RED if name != "dense" else "black")
        axis.set_title(title, loc="left", fontsize=9)
        axis.sharey(axes[0])
        axis.tick_params(labelleft=axis is axes[0])
    axes[0].set_ylabel("pitch, Hz")
    _widths(axes[-1], layers)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _heard(axis: mpl.axes.Axes, tracks: Rows, name: str, color: str) -> None:
    """Draw the melody's pieces, one at each noise, as a wide line, and what a network hears as dots."""
    pieces = sorted({row["piece"] for row in tracks})
    start, places = 0, []
    for piece in pieces:
        rows = tracks.where(piece=piece)
        x = start + np.arange(len(rows))
        axis.plot(x, [row["true"] for row in rows], color=GREY, linewidth=5, solid_capstyle="round", zorder=1)
        axis.scatter(x, [row[name] for row in rows], color=color, s=5, linewidths=0, zorder=2)
        places.append(start + len(rows) / 2)
        start += len(rows) + 6
    axis.set_yscale("log")
    axis.set_ylim(32, 2000)  # what the dense network knows
    axis.set_yticks([50, 100, 200, 400, 800, 1600], ["50", "100", "200", "400", "800", "1600"], minor=False)
    axis.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axis.set_xticks(places, ["quiet" if NOISE[i] is None else f"{NOISE[i]:g} dB" for i in range(len(places))])
    axis.tick_params(axis="x", length=0)
    axis.set_xlabel("a second each; signal to noise")


def _widths(axis: mpl.axes.Axes, layers: dict[str, list[int]]) -> None:
    """Draw the channels of the convolutions, before and after."""
    (_, dense), (_, kept) = layers.items()
    y = np.arange(len(dense))
    axis.barh(y, dense, color=GREY, label="before")
    axis.barh(y, kept, color=BLUE, height=0.45, label="after")
    for place, (before, after) in enumerate(zip(dense, kept, strict=True)):
        axis.text(before + 15, place, f"{after} of {before}", va="center", fontsize=8)
    axis.set_yticks(y, [f"conv {i + 1}" for i in y])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.35 * max(dense))
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.set_title("channels, before and after", loc="left", fontsize=9)
    axis.legend(frameon=False, loc="center right", fontsize=8)
