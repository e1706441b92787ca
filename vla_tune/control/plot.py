"""What the policy asked for, and what the robot was sent."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from vla_tune.control.log import Tick
from vla_tune.control.state import State

_COLOURS = {State.ARMED: "#dddddd", State.HOLD: "#f6c85f", State.STOP: "#d62728"}
"""Behind the ticks of a state; RUN is white."""


def plot_ticks(ticks: Sequence[Tick], path: Path, *, names: Sequence[str], units: Sequence[str]) -> None:
    """One panel for each action dimension: raw and sent action over time, clamped ticks marked, states behind.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not ticks:
        raise ValueError("no tick was logged: there is nothing to plot.")
    seconds = np.array([tick.time for tick in ticks]) - ticks[0].time
    raw, sent = np.stack([tick.raw for tick in ticks]), np.stack([tick.sent for tick in ticks])
    clamped = np.stack([tick.clamped for tick in ticks])
    figure, axes = plt.subplots(
        len(names), 1, figsize=(9, 1.6 * len(names) + 0.8), sharex=True, squeeze=False, layout="constrained"
    )
    for index, axis in enumerate(axes[:, 0]):
        _shade(axis, ticks, seconds)
        axis.plot(seconds, raw[:, index], ".-", color="#7f7f7f", linewidth=0.8, markersize=4, label="raw: the policy's")
        axis.step(seconds, sent[:, index], where="post", color="#1f77b4", linewidth=1.2, label="sent to the robot")
        where = clamped[:, index] & np.isfinite(sent[:, index])
        axis.plot(seconds[where], sent[where, index], "x", color="#d62728", markersize=5, label="limited")
        axis.set_ylabel(f"{names[index]}\n[{units[index]}]", fontsize=8)
        axis.grid(visible=True, alpha=0.3)
    axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=7, ncols=3, frameon=False)
    axes[-1, 0].set_xlabel("seconds (grey: armed, yellow: held, red: stopped)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _shade(axis: Axes, ticks: Sequence[Tick], seconds: np.ndarray) -> None:
    ends = np.append(seconds[1:], seconds[-1] + (seconds[-1] - seconds[0]) / max(1, len(seconds) - 1))
    for tick, begin, end in zip(ticks, seconds, ends, strict=True):
        if colour := _COLOURS.get(State(tick.state)):
            axis.axvspan(begin, end, color=colour, alpha=0.5, linewidth=0)
