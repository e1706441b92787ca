"""A comparison for people: markdown, tables in the terminal, and a picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from vla_tune.evaluation.pairwise import SIGNIFICANT, against_best
from vla_tune.evaluation.plots import COLOURS, quiet, save
from vla_tune.evaluation.report import table
from vla_tune.printing import markdown

Found = Mapping[str, Any]
"""What `compare_all` returns."""


def pairwise_markdown(found: Found) -> str:
    """All of it, in per cent and percentage points."""
    parts = [
        markdown(_CANDIDATES, _candidates(found), left=2),
        *[f"- {sentence}\n" for sentence in sentences(found)],
        "\n" + markdown(_PAIRS, _pairs(found), left=2),
    ]
    return parts[0] + "\n" + "".join(parts[1:])


def pairwise_tables(found: Found) -> list[Table]:
    """The same two tables for the terminal."""
    return [
        table([_CANDIDATES, *_candidates(found)], left=2, title="Candidates"),
        table([_PAIRS, *_pairs(found)], left=2, title="Differences, the first less the second"),
    ]


def sentences(found: Found) -> Iterator[str]:
    """What can be said, and what not."""
    others = [name for name in found["not_told_from_best"] if name != found["best"]]
    told = f"cannot be told from it: {', '.join(others)}." if others else "every other is told from it."
    yield f"Best: {found['best']}; {told}"
    for row in found["non_inferiority"] or []:
        limit = f"{row['first']} is not worse than {row['second']} by more than {100 * row['margin']:g} points"
        bound = f"the lower bound of the difference is {100 * row['low']:+.1f} points"
        yield f"{'Shown' if row['shown'] else 'Not shown'}: {limit} ({bound})."
    for row in against_best(found):
        if (over := row["cochran_mantel_haenszel"]) is not None:
            ratio = "" if over["odds_ratio"] is None else f", common odds ratio {over['odds_ratio']:.2f}"
            yield f"{row['first']} and {row['second']} over tasks (Cochran-Mantel-Haenszel): p = {_p(over['p_value'])}{ratio}."
    yield from found["notes"]


def plot_pairwise(found: Found, path: Path, *, title: str) -> None:
    """Rates with their intervals and runs, and differences from the best with theirs."""
    rows, pairs = found["candidates"], against_best(found)
    figure = Figure(figsize=(11.0, 1.8 + 0.42 * max(len(rows), len(pairs))), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, row in enumerate(rows):
        colour = COLOURS[0] if row["told_from_best"] else COLOURS[1]
        _whisker(left, place, row["success_rate"], row, colour)
        if len(row["success_by_run"]) > 1:
            left.plot([100 * rate for rate in row["success_by_run"]], [place] * len(row["success_by_run"]), "x", color=COLOURS[2])
    left.set_xlim(-3, 103)
    left.set_xlabel("success rate [%], 95 % interval; x: one training run\nblue: cannot be told from the best")
    _names(left, [row["name"] for row in rows])
    for place, row in enumerate(pairs):
        _whisker(right, place, row["difference"], row, COLOURS[1] if row["p_holm"] >= SIGNIFICANT else COLOURS[0])
    right.axvline(0, color="#202124", linewidth=0.8)
    if found["non_inferiority"]:
        right.axvline(-100 * found["non_inferiority"][0]["margin"], color=COLOURS[5], linewidth=0.8, linestyle="--")
    right.set_xlabel("difference [percentage points], 95 % interval")
    _names(right, [f"{row['first']} - {row['second']}" for row in pairs])
    save(figure, path, title)


def _whisker(axes: Axes, place: int, value: float, row: Mapping[str, Any], colour: str) -> None:
    lengths = [[100 * max(value - row["low"], 0.0)], [100 * max(row["high"] - value, 0.0)]]
    axes.errorbar([100 * value], [place], xerr=lengths, fmt="o", color=colour, capsize=3)


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    quiet(axes)
    axes.grid(axis="x", color="#e0e0e0", linewidth=0.6)


_CANDIDATES = [
    "candidate",
    "told from the best",
    "runs",
    "episodes",
    "success by run [%]",
    "success [%]",
    "p against the best (Holm)",
]
_PAIRS = ["pair", "task", "first [%]", "second [%]", "only first, only second", "difference [points]", "p", "p (Holm)"]


def _candidates(found: Found) -> list[list[str]]:
    return [
        [
            row["name"],
            "best" if row["name"] == found["best"] else "yes" if row["told_from_best"] else "no",
            str(len(row["runs"])),
            str(row["episodes"]),
            ", ".join(f"{100 * rate:.0f}" for rate in row["success_by_run"]),
            f"{100 * row['success_rate']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
            "-" if row["p_against_best"] is None else _p(row["p_against_best"]),
        ]
        for row in found["candidates"]
    ]


def _pairs(found: Found) -> list[list[str]]:
    """The best with each other, over all tasks and, where there are several, for each."""
    lines = []
    for row in against_best(found):
        several = len(row["tasks"]) > 1
        name = f"{row['first']} - {row['second']}"
        lines.append(_line(name, "all" if several else row["tasks"][0]["task"], row, _p(row["p_holm"])))
        lines += [_line("", part["task"], part, "") for part in row["tasks"] if several]
    return lines


def _line(name: str, task: str, row: Mapping[str, Any], p_holm: str) -> list[str]:
    apart = "-" if row["pairs"] is None else f"{row['pairs']['only_first']}, {row['pairs']['only_second']}"
    points = f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return [
        name,
        task,
        f"{100 * row['first_rate']:.1f}",
        f"{100 * row['second_rate']:.1f}",
        apart,
        points,
        _p(row["p_value"]),
        p_holm,
    ]


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else "< 0.0001"
