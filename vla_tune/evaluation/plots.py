"""Pictures for the README and for a run's folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vla_tune.schema import appearing

Row = Mapping[str, Any]
"""A line of the results, or of a log."""

COLOURS = ("#9aa0a6", "#1a73e8", "#e8710a", "#188038", "#9334e6", "#d93025", "#12a4af", "#795548")
"""The base is grey, the others follow in their order."""

_MOST_SIDE_BY_SIDE = 8
"""Tasks whose bars stand in one row; more lie below each other."""
_LONGEST_LINE = 48
"""Letters of a task's sentence in a line."""

LOSS_KEYS = {"train/loss": "training", "validation/loss": "held out"}
ERROR_KEYS = {"validation/action_error": "all frames", "validation/first_frame_error": "first frames"}
"""Names in the log of a run -> names in the picture."""


def plot_success(rows: Sequence[Row], path: Path, *, title: str = "") -> None:
    """Success rates as bars with their Wilson intervals: a group per task, a colour per policy.

    More than a few tasks stand below each other, each with its sentence where it has one.

    Args:
        rows: From `success_row` and `mean_row`, each pair of policy and task at most once.
        path: Of the PNG.
        title: Above the picture.
    """
    tasks, policies = (list(dict.fromkeys(row[name] for row in rows)) for name in ("task", "policy"))
    episodes = sorted({row["episodes"] for row in rows if "tasks" not in row})
    counted = f"{episodes[0]}" if len(episodes) == 1 else f"{episodes[0]} to {episodes[-1]}"
    below = f"{counted} episodes per task; whiskers: 95 % Wilson interval"
    figure = (_standing if len(tasks) <= _MOST_SIDE_BY_SIDE else _lying)(rows, tasks, policies, below)
    save(figure, path, title)


def _standing(rows: Sequence[Row], tasks: list[str], policies: list[str], below: str) -> Figure:
    width = 0.8 / len(policies)
    figure = Figure(figsize=(max(6.0, 1.2 + len(tasks) * max(0.9, 0.35 * len(policies))), 4.2), layout="constrained")
    axes = figure.add_subplot()
    for policy, chosen, places in _bars(rows, tasks, policies):
        rates = [100 * row["success_rate"] for row in chosen]
        axes.bar(places, rates, 0.92 * width, yerr=whiskers(chosen), **_style(policy, policies))
    axes.set_xticks(range(len(tasks)), [_words(task) for task in tasks], **slant(tasks))
    axes.set_ylabel("success rate [%]")
    finish_rates(axes, below)
    _legend_above(axes, len(policies))
    return figure


def _lying(rows: Sequence[Row], tasks: list[str], policies: list[str], below: str) -> Figure:
    height = 0.8 / len(policies)
    figure = Figure(figsize=(9.0, 1.4 + len(tasks) * max(0.34, 0.17 * len(policies))), layout="constrained")
    axes = figure.add_subplot()
    for policy, chosen, places in _bars(rows, tasks, policies):
        rates = [100 * row["success_rate"] for row in chosen]
        axes.barh(places, rates, 0.92 * height, xerr=whiskers(chosen), **_style(policy, policies))
    said = {row["task"]: row["instruction"] for row in reversed(rows) if "instruction" in row}
    labels = [_words(task) + (f": {_wrapped(said[task])}" if task in said else "") for task in tasks]
    axes.set_yticks(range(len(tasks)), labels, fontsize=8)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlim(-3, 105)
    axes.set_xlabel(f"success rate [%]   ({below})", fontsize=9)
    quiet(axes, along="x")
    _legend_above(axes, len(policies))
    return figure


def _bars(rows: Sequence[Row], tasks: list[str], policies: list[str]) -> Iterator[tuple[str, list[Row], list[float]]]:
    """Of each policy its rows, and the places of their bars in the groups of their tasks."""
    for number, policy in enumerate(policies):
        chosen, shift = [row for row in rows if row["policy"] == policy], number - (len(policies) - 1) / 2
        yield policy, chosen, [tasks.index(row["task"]) + shift * 0.8 / len(policies) for row in chosen]


def _style(policy: str, policies: list[str]) -> dict[str, Any]:
    return {"label": _words(policy), "color": _colour(policy, policies), **_WHISKERS}


def _wrapped(sentence: str) -> str:
    return "\n".join(wrap(sentence, _LONGEST_LINE))


def plot_log(log: Path, path: Path, *, error_unit: str, title: str = "") -> None:
    """Curves of a training run: losses, and below them the action error on held-out episodes.

    Args:
        log: JSON lines with `step` and any of `LOSS_KEYS` and `ERROR_KEYS`.
        path: Of the PNG.
        error_unit: Of the action error, e.g. `m` (or what its dimensions share).
        title: Above the picture.

    Raises:
        ValueError: the log holds none of the losses.
    """
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    panels = {"loss": LOSS_KEYS, f"mean absolute action error [{error_unit}]": ERROR_KEYS}
    panels = {name: keys for name, keys in panels.items() if any(key in line for line in lines for key in keys)}
    if "loss" not in panels:
        raise ValueError(f"{log} holds none of {sorted(LOSS_KEYS)}: is it the log of a training run?")
    figure = Figure(figsize=(7.0, 0.6 + 2.7 * len(panels)), layout="constrained")
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, keys) in zip(every, panels.items(), strict=True):
        for number, (key, label) in enumerate(keys.items()):
            _curve(axes, lines, key, label, COLOURS[1 + number])
        axes.set_ylabel(name, fontsize=9)
        axes.set_ylim(bottom=0)
        quiet(axes)
        axes.legend(frameon=False)
    every[-1].set_xlabel("optimiser step")
    save(figure, path, title)


def plot_sweep(rows: Sequence[Row], path: Path, *, column: str, label: str = "", title: str = "") -> None:
    """Success rates over a setting, a line per policy and task, with Wilson intervals.

    Args:
        rows: From `success_row`, with `column` added.
        path: Of the PNG.
        column: What was swept; the values stand side by side, numbers in order and joined.
        label: What to write at its axis; the column's name unless given.
        title: Above the picture.
    """
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    values = list(dict.fromkeys(row[column] for row in rows))
    if numeric := all(isinstance(value, int | float) for value in values):
        values = sorted(values)
    series = list(dict.fromkeys((row["policy"], row["task"]) for row in rows))
    nudge = min(0.12, 0.5 / len(series))  # whiskers at one place would hide each other
    for number, (policy, task) in enumerate(series):
        chosen = [row for row in rows if (row["policy"], row["task"]) == (policy, task)]
        chosen = sorted(chosen, key=lambda row: values.index(row[column]))
        shift = (number - (len(series) - 1) / 2) * nudge
        places = [values.index(row[column]) + shift for row in chosen]
        rates = [100 * row["success_rate"] for row in chosen]
        style = {"fmt": "o-" if numeric else "o", "color": COLOURS[(number + 1) % len(COLOURS)], "linewidth": 1.2, "capsize": 3}
        axes.errorbar(places, rates, whiskers(chosen), label=f"{_words(policy)}, {_words(task)}", **style)
    axes.set_xticks(range(len(values)), [_words(value) for value in values], **slant(values))
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_ylabel("success rate [%]")
    finish_rates(axes, f"{label or _words(column)}   (whiskers: 95 % Wilson interval)")
    _legend_above(axes, len(series))
    save(figure, path, title)


_WHISKERS: dict[str, Any] = {"capsize": 3, "error_kw": {"elinewidth": 1, "ecolor": "#202124"}}


def whiskers(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Lengths below and above the rate, in per cent."""
    below = [100 * max(row["success_rate"] - row["wilson_low"], 0.0) for row in rows]
    above = [100 * max(row["wilson_high"] - row["success_rate"], 0.0) for row in rows]
    return below, above


def _curve(axes: Axes, lines: Sequence[Row], key: str, label: str, colour: str) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if not points:
        return
    steps, values = zip(*points, strict=True)
    marker = "o" if len(points) <= 60 else ""
    axes.plot(steps, values, label=label, color=colour, marker=marker, markersize=3, linewidth=1.2)


def finish_rates(axes: Axes, below: str) -> None:
    """An axis of rates in per cent."""
    axes.set_ylim(-3, 105)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlabel(below, fontsize=9)
    quiet(axes)


def quiet(axes: Axes, *, along: Literal["x", "y"] = "y") -> None:
    """Less ink around the data; faint lines mark the values on one axis."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=along, color="#e0e0e0", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend_above(axes: Axes, entries: int) -> None:
    """Above the bars, where it hides none of them."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(entries, 4), frameon=False)


def slant(names: Sequence[Any]) -> dict[str, Any]:
    """Slanted labels where many or long ones would touch."""
    crowded = max(len(str(name)) for name in names) * len(names) > 60
    return {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if crowded else {}


def _colour(policy: str, policies: Sequence[str]) -> str:
    others = [name for name in policies if name != "base"]
    return COLOURS[0] if policy == "base" else COLOURS[1:][others.index(policy) % (len(COLOURS) - 1)]


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def save(figure: Figure, path: Path, title: str) -> None:
    """Write the PNG, which appears under its name when it is complete, and the folder around it."""
    if title:
        figure.suptitle(title, fontsize=12)
    FigureCanvasAgg(figure)
    with appearing(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix[1:])
