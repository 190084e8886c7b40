"""The study's figures, drawn from its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from optuna_softprune import PruningSpace
from studies.autoencoders import trained
from studies.mnist_autoencoder.methods import REFITTED, RIDGE, orders, refitting
from studies.searching import HEURISTICS

if TYPE_CHECKING:
    from pathlib import Path

    from studies.autoencoders import Images
    from studies.rows import Rows

SHOWN = ("uniform", "local norm", "global norm", "random, mean", "TPE", "SLSQP", "finite differences", REFITTED)
COLOURS = {name: f"C{i}" for i, name in enumerate(SHOWN)} | {
    "random": "C3", "CMA-ES": "C8", "GP": "C9", "exhaustive grid": "black"
}  # fmt: skip
GRID = "exhaustive grid"
TILES = 10


def draw(results: Rows, convergence: Rows, coefficients: Rows, images: Images, folder: Path) -> None:
    """Draw all figures into a folder."""
    mpl.use("agg")
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120})
    sparsity(results, folder / "sparsity.png")
    progress(convergence, folder / "convergence.png")
    shares(coefficients, folder / "coefficients.png")
    reconstructions(results, coefficients, images, folder / "reconstructions.png")


def sparsity(results: Rows, file: Path) -> None:
    """Draw test PSNR against sparsity: means over trainings, bars from the least to the most."""
    networks = list(dict.fromkeys(row["network"] for row in results))
    figure, axes = plt.subplots(1, len(networks), figsize=(4 * len(networks), 3.6), squeeze=False, layout="constrained")
    for ax, network in zip(axes[0], networks, strict=True):
        whole = float(np.mean([row["psnr"] for row in results.where(network=network, method="dense")]))
        ax.axhline(whole, color="black", linewidth=0.8, linestyle=":", label="dense")
        for method in SHOWN:
            rows = results.where(network=network, method=method, chosen=1)
            targets = sorted({row["target"] for row in rows})
            each = [[row["psnr"] for row in rows if row["target"] == target] for target in targets]
            means = np.array([np.mean(values) for values in each])
            reach = [means - [min(values) for values in each], [max(values) for values in each] - means]
            style: dict[str, Any] = {"marker": "o", "markersize": 3, "capsize": 2, "linewidth": 1.2}
            style |= {"color": COLOURS[method], "linestyle": "--" if method in HEURISTICS else "-"}
            ax.errorbar([100 * target for target in targets], means, yerr=reach, label=method, **style)
        ax.set(title=network, xlabel="sparsity, % of the parameters", ylabel="PSNR on test images, dB")
    axes[0, 0].legend(frameon=False, fontsize=7)
    figure.savefig(file)
    plt.close(figure)


def progress(convergence: Rows, file: Path) -> None:
    """Draw the best validation PSNR so far against metric calls, from the best of the grid (or of all, without one)."""
    network = "fully connected"
    rows = convergence.where(network=network)
    targets = sorted({row["target"] for row in rows if row["method"] == GRID}) or sorted({r["target"] for r in rows})
    figure, axes = plt.subplots(1, len(targets), figsize=(4.6 * len(targets), 3.6), squeeze=False, layout="constrained")
    for ax, target in zip(axes[0], targets, strict=True):
        mine = [row for row in rows if row["target"] == target]
        named = GRID if any(row["method"] == GRID for row in mine) else None
        aims: dict[int, float] = {}
        for row in mine:
            if named in (None, row["method"]):
                aims[row["seed"]] = max(row["psnr_validation"], aims.get(row["seed"], -np.inf))
        for method in dict.fromkeys(row["method"] for row in mine if row["method"] != REFITTED):
            last = max(row["call"] for row in mine if row["method"] == method)
            calls = np.arange(1, last + 1)
            gains = []
            for seed in aims:
                steps = sorted(
                    (r["call"], r["psnr_validation"]) for r in mine if (r["seed"], r["method"]) == (seed, method)
                )
                at = np.searchsorted([call for call, _ in steps], calls, side="right") - 1
                gains.append(np.array([value for _, value in steps])[at] - aims[seed])
            ax.plot(
                calls,
                np.mean(gains, axis=0),
                label=method,
                color=COLOURS[method],
                linewidth=1.3,
                drawstyle="steps-post",
            )
        ax.axhline(0, color="black", linewidth=0.8, linestyle=":")
        ax.set(xscale="log", xlabel="metric calls", title=f"{network}, {target:.0%} sparsity", ylim=(-3, 1))
        ax.set_ylabel(f"best so far over the best of {named or 'all'}, dB")
    axes[0, 0].legend(frameon=False, fontsize=7)
    figure.savefig(file)
    plt.close(figure)


def shares(coefficients: Rows, file: Path) -> None:
    """Draw the coefficient of each group, in per cent: means over trainings."""
    network = "fully connected"
    rows = coefficients.where(network=network)
    targets = sorted({row["target"] for row in rows})
    targets = [target for target in targets if target in (0.5, 0.7)] or targets
    groups = list(dict.fromkeys(row["group"] for row in rows))
    units = {row["group"]: row["units"] for row in rows}
    figure, axes = plt.subplots(1, len(targets), figsize=(4.6 * len(targets), 3.4), squeeze=False, layout="constrained")
    for ax, target in zip(axes[0], targets, strict=True):
        methods = list(dict.fromkeys(row["method"] for row in rows if row["target"] == target))
        table = np.array(
            [
                [
                    100 * np.mean([r["removed"] / r["units"] for r in coefficients.where(
                        network=network, target=target, method=method, group=group)])
                    for group in groups
                ]
                for method in methods
            ]
        )  # fmt: skip
        ax.imshow(table, cmap="viridis", vmin=0, vmax=100, aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            ax.text(
                j, i, f"{value:.0f}", ha="center", va="center", color="white" if value < 60 else "black", fontsize=7
            )
        ax.set_xticks(range(len(groups)), [f"{group}\n{units[group]} units" for group in groups], fontsize=6)
        ax.set_yticks(range(len(methods)), methods)
        ax.set_title(f"% of each group removed, {target:.0%} sparsity")
        ax.spines[:].set_visible(False)
    figure.savefig(file)
    plt.close(figure)


def reconstructions(results: Rows, coefficients: Rows, images: Images, file: Path) -> None:
    """Draw test images and what the first fully connected network makes of them, a row for each method."""
    network = "fully connected"
    target = max({row["target"] for row in coefficients.where(network=network, seed=0)} & {0.5, 0.7})
    model = trained(network, 0, images)
    order = results.where(network=network, seed=0, target=target, method="uniform", chosen=1)[0]["order"]
    space = PruningSpace(model, (images.calibration[:2],), importance=orders(images.calibration)[order])
    batch = images.test[:TILES]
    rows: dict[str, nn.Module] = {"test images": nn.Identity(), "dense": model}
    refitted = refitting(model, images.calibration, RIDGE[network])
    for method in ("global norm", "uniform", "local norm", "TPE", "SLSQP", "finite differences", REFITTED):
        found = coefficients.where(network=network, seed=0, target=target, method=method)
        of = refitted if method == REFITTED else space
        rows[method] = of.prune({row["group"]: row["removed"] / row["units"] for row in found})
    figure, axes = plt.subplots(len(rows), 1, figsize=(6, 0.55 * len(rows)), layout="constrained")
    for ax, (name, small) in zip(axes, rows.items(), strict=True):
        with torch.no_grad():
            line = torch.cat([*nn.functional.pad(small(batch)[:, 0], (1, 1, 1, 1))], 1)
        ax.imshow(line.clamp(0, 1), cmap="gray", vmin=0, vmax=1)
        ax.set_yticks([line.shape[0] / 2], [name])
        ax.set_xticks([])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    figure.suptitle(f"{network}, {target:.0%} of the parameters removed, not trained again", fontsize=9)
    figure.savefig(file)
    plt.close(figure)
