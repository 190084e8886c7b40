"""The study's picture: what is left of the reward by how much is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from studies.intervals import half_width

if TYPE_CHECKING:
    from pathlib import Path

    from studies.rows import Rows

SHOWN = {
    "uniform": ("tab:gray", ":"),
    "uniform, refitted": ("tab:gray", "-"),
    "local norm": ("tab:orange", ":"),
    "local norm, refitted": ("tab:orange", "-"),
    "finite differences": ("tab:blue", ":"),
    "finite differences, refitted": ("tab:blue", "-"),
}


def draw(rows: Rows, file: Path) -> None:
    """Draw the reward and the share of episodes that stay upright: means over trainings, bars are 95 % intervals."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11.5, 3.6), sharex=True, layout="constrained")
    targets = sorted({row["target"] for row in rows.where(part="target")})
    places = np.arange(len(targets))
    dense = {name: np.mean([row[name] for row in rows.where(part="dense")]) for name in ("test", "upright")}
    titles = {"test": "reward of a step", "upright": "episodes that stay upright to the end"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        axis.axhline(dense[name], color="black", linewidth=0.8, label="dense")
        for i, (method, (color, style)) in enumerate(SHOWN.items()):
            each = [[row[name] for row in rows.where(part="target", target=t, method=method)] for t in targets]
            if all(each):
                axis.errorbar(
                    places + 0.03 * (i - 2.5), [np.mean(v) for v in each], [half_width(v) for v in each],
                    color=color, linestyle=style, marker="o", markersize=3, elinewidth=0.7, label=method,
                )  # fmt: skip
        axis.set(title=title, xlabel="removed", ylim=(0, 1.05))
        axis.set_xticks(places, [f"{target:.0%}" for target in targets])
    axes[0].axhline(0.95 * dense["test"], color="black", linewidth=0.8, linestyle="--", label="95 % of it")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
    figure.savefig(file, dpi=120)
    plt.close(figure)
