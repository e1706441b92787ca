"""Runs that differ in one choice, side by side: what each costs, and how well it does over its training seeds."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vla_tune.evaluation.plots import COLOURS, finish_rates, quiet, save, slant
from vla_tune.evaluation.stats import of_the_trained
from vla_tune.evaluation.training_seeds import interval_of_rates
from vla_tune.printing import markdown

Results = Mapping[str, Any]
"""What a run's `results.json` holds."""

_COLUMNS = {
    "trainable parameters": lambda row: f"{row['trainable_parameters']:,} ({100 * row['trainable_share']:.2f} %)",
    "adapter [MB]": lambda row: _number(_scaled(row["adapter_bytes"], 1e-6), ".2f"),
    "peak memory [GB]": lambda row: _number(_scaled(row["peak_memory_bytes"], 1e-9), ".2f"),
    "samples per CPU s": lambda row: _number(row["samples_per_cpu_second"], ".0f"),
    "held-out - training loss": lambda row: _number(row["generalisation_gap"], "+.3f"),
    "success by seed [%]": lambda row: ", ".join(f"{100 * rate:.0f}" for rate in row["success_by_seed"]),
    "success [%]": lambda row: f"**{100 * row['success_rate']:.1f}** [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
    "forgotten [points]": lambda row: _number(row["forgotten"], ".1f"),
    "ms per chunk: base, live, merged": lambda row: ", ".join(
        _number(row["milliseconds"].get(name), ".1f") for name in ("base", "live", "merged")
    ),
    "merges": lambda row: "-" if not row["trainable_parameters"] else "yes" if row["not_mergeable"] is None else "no",
}

_BELOW = {"forgotten": "forgotten [points]", "generalisation_gap": "held-out - training loss"}
"""Entries of a row that are drawn -> the axis."""


def compared(runs: Mapping[str, Sequence[Results]]) -> list[dict[str, Any]]:
    """One row per choice; rates are over the episodes of all its seeds, costs are medians.

    Args:
        runs: Choice -> the results of its seeds.

    Raises:
        ValueError: a run was finished before costs were measured.
    """
    return [_row(choice, seeds) for choice, seeds in runs.items()]


def base_rows(results: Results) -> list[dict[str, Any]]:
    """What a run began with, to be put above the choices: nothing was trained, nothing forgotten. None if it was not evaluated."""
    own = of_the_trained(results["evaluation"])
    found = [row for row in results["evaluation"] if row["policy"] == "base" and row["task"] == own["task"]]
    nothing = dict.fromkeys(["peak_memory_bytes", "samples_per_cpu_second", "generalisation_gap", "forgotten", "not_mergeable"])
    return [nothing | _base(row, results["costs"]) for row in found]


def comparison_markdown(rows: Sequence[Mapping[str, Any]], *, choice: str) -> str:
    """The rows as a markdown table."""
    lines = [[str(row["choice"]), *(cell(row) for cell in _COLUMNS.values())] for row in rows]
    return markdown([choice, *_COLUMNS], lines, left=1)


def plot_comparison(rows: Sequence[Mapping[str, Any]], path: Path, *, choice: str, title: str) -> None:
    """Success with its interval and its seeds, above what was forgotten and how much better the training data is known."""
    figure = Figure(figsize=(max(7.0, 1.0 + 0.9 * len(rows)), 8.0), layout="constrained")
    success, *below = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    places = range(len(rows))
    rates = [100 * row["success_rate"] for row in rows]
    lengths = [
        [100 * max(row["success_rate"] - row["low"], 0.0) for row in rows],
        [100 * max(row["high"] - row["success_rate"], 0.0) for row in rows],
    ]
    success.errorbar(places, rates, lengths, fmt="o", color=COLOURS[1], capsize=3, label="all seeds, 95 % interval over runs")
    for place, row in zip(places, rows, strict=True):
        seeds = [100 * rate for rate in row["success_by_seed"]]
        label = "one seed" if place == 0 else None
        success.plot([place + 0.15] * len(seeds), seeds, "x", color=COLOURS[0], markersize=5, label=label)
    success.set_ylabel("success rate [%]")
    finish_rates(success, "")
    success.legend(frameon=False, loc="lower right")
    for axes, (key, label) in zip(below, _BELOW.items(), strict=True):
        values = [float("nan") if row[key] is None else row[key] for row in rows]
        axes.plot(places, values, "o", color=COLOURS[2])
        axes.axhline(0, color=COLOURS[0], linewidth=0.8)
        axes.set_ylabel(label)
        quiet(axes)
    names = [_short(str(row["choice"])) for row in rows]
    below[-1].set_xticks(list(places), names, **slant(names))
    below[-1].set_xlabel(choice)
    save(figure, path, title)


def _short(choice: str) -> str:
    """`adapter.alpha=16, data=tabletop` -> `alpha=16, data=tabletop`: labels are long enough."""
    return ", ".join(part.partition("=")[0].rpartition(".")[2] + "".join(part.partition("=")[1:]) for part in choice.split(", "))


def _row(choice: str, seeds: Sequence[Results]) -> dict[str, Any]:
    if any(not run.get("costs") for run in seeds):
        raise ValueError(f"a run of {choice} was finished before costs were measured: remove its folder and start it again.")
    own = [of_the_trained(run["evaluation"]) for run in seeds]
    successes, episodes = ([row[name] for row in own] for name in ("successes", "episodes"))
    low, high = interval_of_rates(successes, episodes)
    training, costs = [run["training"] for run in seeds], [run["costs"] for run in seeds]
    trainable = training[0]["trainable_parameters"]
    return {
        "choice": choice,
        "seeds": len(seeds),
        "trainable_parameters": trainable,
        "trainable_share": trainable / costs[0]["base_parameters"],
        "adapter_bytes": costs[0]["adapter_bytes"],
        "peak_memory_bytes": _median([run["peak_memory_bytes"] for run in training]),
        "samples_per_cpu_second": _median([run["samples_per_cpu_second"] for run in training]),
        "generalisation_gap": _median([_gap(run) for run in training]),
        "success_by_seed": [row["success_rate"] for row in own],
        "success_rate": sum(successes) / sum(episodes),
        "low": low,
        "high": high,
        "forgotten": _median([_forgotten(run["evaluation"], own[0]) for run in seeds]),
        "milliseconds": {name: _median([run["milliseconds"].get(name) for run in costs]) for name in ("base", "live", "merged")},
        "not_mergeable": costs[0]["not_mergeable"],
    }


def _base(row: Mapping[str, Any], costs: Mapping[str, Any]) -> dict[str, Any]:
    low, high = interval_of_rates([row["successes"]], [row["episodes"]])
    return {
        "choice": "base",
        "seeds": 1,
        "trainable_parameters": 0,
        "trainable_share": 0.0,
        "adapter_bytes": 0,
        "success_by_seed": [row["success_rate"]],
        "success_rate": row["success_rate"],
        "low": low,
        "high": high,
        "milliseconds": {"base": costs["milliseconds"].get("base")},
    }


def _gap(training: Mapping[str, Any]) -> float | None:
    held_out, seen = training["validation"].get("validation/loss"), training.get("training_loss")
    return None if held_out is None or seen is None else held_out - seen


def _forgotten(rows: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> float | None:
    """Mean over the tasks that the base could do, of what it could and the fine-tuned policy cannot: percentage points."""
    rates = {(row["policy"], row["task"]): 100 * row["success_rate"] for row in rows}
    learned = {own["task"], *own.get("tasks", [])}
    lost = [rates["base", old] - rate for (policy, old), rate in rates.items() if policy == "fine_tuned" and old not in learned]
    return statistics.mean(lost) if lost else None


def _median(values: Sequence[Any]) -> Any:
    """Of those that are given; None if none is."""
    given = [value for value in values if value is not None]
    return statistics.median(given) if given else None


def _scaled(value: int | float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _number(value: int | float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
