"""Measurements for people."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from vla_tune.bench.measure import Row


def row_lines(rows: Sequence[Row]) -> str:
    """The rows as text, a line each, for rows that have different columns."""
    return "\n".join(", ".join(f"{name}: {_said(value)}" for name, value in row.items()) for row in rows)


def _said(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def speed_table(rows: Sequence[Row], *, title: str) -> Table:
    """The rows for `rich.print`: medians, with half the range of the repetitions in per cent; a line between suites."""
    table = Table(title=title, box=SIMPLE)
    for name in ("what", "unit"):
        table.add_column(name, no_wrap=True)
    for name in ("per second", "per CPU s", "CPU ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    memory = any("peak_bytes" in row or "process_peak_bytes" in row for row in rows)
    if memory:
        table.add_column("peak, GB", justify="right", no_wrap=True)
    for _, group in groupby(rows, key=itemgetter("suite")):
        for row in group:
            rates = [_spread(row, name) for name in ("per_second", "per_cpu_second", "ratio_per_cpu_second")]
            table.add_row(row["work"], row["unit"], *rates, *([_peak(row)] if memory else []))
        table.add_section()
    return table


def machine_text(machine: Mapping[str, Any]) -> str:
    """The machine in two lines."""
    flags = f" ({', '.join(machine['cpu_flags'])})" if machine["cpu_flags"] else ""
    return (
        f"{machine['cpu']}{flags}, {machine['usable_cores']} of {machine['cores']} cores usable, {machine['torch_threads']} torch "
        f"threads, load {machine['load_average']:.2f}, {machine['memory_bytes'] / 1e9:.1f} GB, GPU {machine['gpu'] or 'none'}\n"
        f"Python {machine['python']}, " + ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    )


def _spread(row: Row, name: str) -> str:
    half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    return f"{_number(row[name])} ±{100 * half / row[name]:.0f}%"


def _peak(row: Row) -> str:
    if "process_peak_bytes" in row:
        return f"{row['process_peak_bytes'] / 1e9:.2f}"
    return f"{row['peak_bytes'] / 1e9:.2f} of {row['model_bytes'] / 1e9:.2f}" if "peak_bytes" in row else ""


def _number(value: float) -> str:
    """Three significant digits, never as a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
