"""Two policies, or two sets of them, on the episodes that both played, from what evaluations kept."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_tune.evaluation.episodes import EpisodeRecord, read_episodes
from vla_tune.evaluation.stats import compare
from vla_tune.printing import markdown
from vla_tune.schema import content_hash

_OWN = ("identity", "policy")
"""What of a cell says who played."""
_WORLD = ("suite", "task", "environment")


def paired(first: Iterable[Path], second: Iterable[Path], *, policy: str = "fine_tuned") -> list[dict[str, Any]]:
    """One row for each world that runs of both sides met: their rates, and the first's minus the second's with its 95 % interval.

    Each run plays its episodes from a seed of its own (`evaluation.seed`), the same on both sides, where the runs of a side are to
    be taken together: pairs are told apart by their start.

    Args:
        first: Folders of runs, in which `scripts/eval.py` keeps its episodes.
        second: The others.
        policy: Of these runs.

    Raises:
        ValueError: the two sides met no world from the same starts, or an episode counts twice.
    """
    ours, theirs = ([_cells(folder, policy) for folder in folders] for folders in (first, second))
    pairs: dict[tuple[str, ...], tuple[list[EpisodeRecord], list[EpisodeRecord]]] = {}
    for key in sorted({key for cells in ours for key in cells} & {key for cells in theirs for key in cells}):
        for side, runs in enumerate((ours, theirs)):
            for cells in runs:
                world, records = cells.get(key, (None, []))
                if world is not None:
                    pairs.setdefault(world, ([], []))[side].extend(records)
    if not pairs:
        raise ValueError(
            "the two sides played nothing from the same starts: evaluate both with the same env, task, and evaluation.*."
        )
    return [_row(world, *records) for world, records in pairs.items()]


def paired_markdown(rows: Sequence[Mapping[str, Any]], *, names: tuple[str, str]) -> str:
    """The rows as a markdown table, in per cent and percentage points."""
    head = ["environment", "task", "episodes", *(f"{name} [%]" for name in names), "difference [points]"]
    lines = []
    for row in rows:
        rates = [f"{100 * row[side]:.1f}" for side in ("first", "second")]
        points = f"**{100 * row['difference']:+.1f}** [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        lines.append([row["environment"], row["task"], str(row["episodes"]), *rates, points])
    return markdown(head, lines, left=2)


def _cells(folder: Path, policy: str) -> dict[str, tuple[tuple[str, ...], list[EpisodeRecord]]]:
    """What is the same for whoever plays -> the world, and the episodes."""
    found = {}
    for path in sorted((folder / "evaluation").glob(f"{policy}-*.parquet")):
        records, cell = read_episodes(path)
        if path.stem.endswith(".begun") or cell is None:
            continue
        played = {name: value for name, value in cell.items() if name not in _OWN}
        found[content_hash(played)] = (tuple(str(cell[name]) for name in _WORLD), records)
    return found


def _row(world: tuple[str, ...], first: Sequence[EpisodeRecord], second: Sequence[EpisodeRecord]) -> dict[str, Any]:
    comparison = compare(first, second)
    low, high = comparison.interval()
    return {
        **dict(zip(_WORLD, world, strict=True)),
        "episodes": comparison.episodes,
        "first": sum(record.success for record in first) / len(first),
        "second": sum(record.success for record in second) / len(second),
        "difference": comparison.difference,
        "low": low,
        "high": high,
        "only_first": comparison.only_first,
        "only_second": comparison.only_second,
    }
