"""Results for people and for programs: a table in the terminal, and `results.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from vla_tune.evaluation.fingerprint import mixed

Row = Mapping[str, Any]
"""What `success_row` returns, with further columns as need be (`execution`, `run`, ...)."""

_MEASURED = ("episodes", "successes", "success_rate", "wilson_low", "wilson_high")
_APART = ("tasks", "protocol", "fingerprint")
"""Of a row, what no column shows, or not where all rows have one."""


def success_table(rows: Sequence[Row], *, title: str = "Success") -> Table:
    """The rows for `rich.print`."""
    head, *lines = _cells(rows)
    made = table([head, *lines], left=len(head) - 3, title=_with_protocol(title, rows))
    if differing := mixed(rows):
        told = "; ".join(f"{name} ({', '.join(values)})" for name, values in differing.items())
        made.caption = escape(f"Not one world, so do not compare: these rows differ in {told}.")
    return made


def _protocols(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(row["protocol"]) for row in rows if "protocol" in row))


def _with_protocol(title: str, rows: Sequence[Row]) -> str:
    """Where all rows have one, it is said above them."""
    found = _protocols(rows)
    return f"{title} (protocol {found[0]})" if len(found) == 1 else title


def open_loop_table(rows: Sequence[Row], *, title: str = "Open loop") -> Table:
    """Rows of `open_loop_row` for `rich.print`: errors of each action group in robot units, and overall as a share of the range."""
    head, *lines = open_loop_cells(rows)
    return table([head, *lines], left=1, title=title)


def table(cells: Sequence[Sequence[str]], *, left: int, title: str) -> Table:
    """A header and lines for `rich.print`; the first `left` columns are words, the others numbers."""
    head, *lines = cells
    made = Table(title=title)
    for column, name in enumerate(head):
        made.add_column(escape(name), justify="left" if column < left else "right", overflow="fold")
    for line in lines:
        made.add_row(*map(escape, line))
    return made


def open_loop_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Header and lines of the same table; what else a row holds as plain text comes first."""
    about = [name for name, value in rows[0].items() if isinstance(value, str)]
    groups = {name: group["unit"] for name, group in rows[0]["groups"].items()}
    header = [*(name.replace("_", " ") for name in about), "held-out frames", "error, of an action's range"]
    lines = [
        [*(str(row.get(name, "")) for name in about), str(row["frames"]), f"{100 * row['error']:.2f} %"]
        + [f"{row['groups'][name]['error']:.4g}" if name in row["groups"] else "" for name in groups]
        for row in rows
    ]
    return [header + [f"{name} [{unit}]" for name, unit in groups.items()], *lines]


def tables(results: Mapping[str, Any], *, title: str) -> list[Table]:
    """All that `results.json` holds of trials, for `rich.print`; none where nothing was tried."""
    found = [success_table(results["evaluation"], title=title)] if results.get("evaluation") else []
    return [*found, open_loop_table(results["open_loop"], title=title)] if results.get("open_loop") else found


def read_results(path: Path) -> dict[str, Any]:
    """What a run, an evaluation or a sweep wrote as its `results.json`."""
    return json.loads(path.read_text())


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    """Header and lines: what a row is about, then how it went."""
    if not rows:
        raise ValueError("no rows to report: evaluate at least one policy on one task.")
    apart = [name for name in _APART if name != "protocol" or len(_protocols(rows)) < 2]
    about = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in (*_MEASURED, *apart)]
    header = [*(name.replace("_", " ") for name in about), "successes", "success rate", "95 % interval"]
    return [header, *([*(_word(row.get(name, "")) for name in about), *_measured(row)] for row in rows)]


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _measured(row: Row) -> list[str]:
    """Counts, rate in per cent, and bounds in per cent."""
    rate, low, high = (100 * row[name] for name in ("success_rate", "wilson_low", "wilson_high"))
    return [f"{row['successes']}/{row['episodes']}", f"{rate:.1f} %", f"{low:.1f} to {high:.1f} %"]
