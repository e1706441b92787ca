"""A picture of what an adapter learned."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vla_tune.evaluation.plots import COLOURS, quiet, save


def plot_spectra(
    values: Mapping[str, Sequence[float]], shared: Sequence[Sequence[float]] | None, path: Path, *, title: str = ""
) -> None:
    """Singular values by kind of layer, the share that each rank keeps, and the overlap with another adapter, if there is one.

    Args:
        values: Name of a weight -> singular values of its change, the largest first.
        shared: Overlap of the first i directions with the first j of the other.
        path: Of the PNG.
        title: Above the picture.
    """
    panels = 2 if shared is None else 3
    figure = Figure(figsize=(5.2 * panels, 4.2), layout="constrained")
    every = figure.subplots(1, panels)
    kinds = defaultdict(list)
    for name, found in values.items():
        kinds[_kind(name)].append(np.asarray(found))
    for number, (kind, members) in enumerate(kinds.items()):
        length = max(map(len, members))
        mean = np.mean([np.pad(member, (0, length - len(member))) for member in members], axis=0)
        places, colour = np.arange(1, length + 1), COLOURS[1 + number % (len(COLOURS) - 1)]
        every[0].plot(places, mean, "o-", markersize=3, linewidth=1.2, color=colour, label=kind)
        every[1].plot(places, 100 * np.cumsum(mean**2) / np.sum(mean**2), "o-", markersize=3, linewidth=1.2, color=colour)
    every[0].set_ylabel("singular value of the update (mean over blocks)")
    every[0].legend(frameon=False)
    every[1].axhline(99, color=COLOURS[0], linewidth=0.8, linestyle="--")
    every[1].set_ylabel("kept of the update [%]")
    for axes in every[:2]:
        axes.set_xlabel("rank")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        quiet(axes)
    if shared is not None:
        _draw_overlap(figure, every[2], shared)
    save(figure, path, title)


def _draw_overlap(figure: Figure, axes, shared: Sequence[Sequence[float]]) -> None:
    size = len(shared)
    picture = axes.imshow(np.asarray(shared), origin="lower", vmin=0, vmax=1, extent=(0.5, size + 0.5, 0.5, size + 0.5))
    axes.set_xticks(range(1, size + 1))
    axes.set_yticks(range(1, size + 1))
    axes.set_xlabel("first j directions of the other")
    axes.set_ylabel("first i directions of this one")
    figure.colorbar(picture, ax=axes, label="overlap")


def _kind(name: str) -> str:
    """A weight's name without the numbers of blocks and what is around them: `self_attn.q_proj`."""
    parts = re.sub(r"\.weight$", "", name).split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :] if numbers and numbers[-1] + 1 < len(parts) else parts[-2:])
