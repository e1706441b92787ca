"""Rows of the GPU suite as lines of text; nothing but Python is needed to print them."""

from collections.abc import Sequence

from vla_tune.bench.budget import MEASURED
from vla_tune.bench.measure import Row

GIGA, TERA = 1e9, 1e12


def line(row: Row) -> str:
    """What a cell became."""
    name = f"{row['part']}: {row['work']}"
    if row["status"] != MEASURED:
        plan = f" (planned: {row['planned_bytes'] / GIGA:.1f} GB)" if "planned_bytes" in row else ""
        return f"{name:<58} {row['status'].upper()}{plan}: {row['reason']}"
    return f"{name:<58} {_TEXTS[row['part']](row)}"


def summary(rows: Sequence[Row]) -> str:
    """One line for each row, and how many became what."""
    counts = {status: sum(row["status"] == status for row in rows) for status in dict.fromkeys(row["status"] for row in rows)}
    tail = ", ".join(f"{count} {status}" for status, count in counts.items())
    return "\n".join([*map(line, rows), f"{len(rows)} cells in {sum(row['seconds'] for row in rows):.0f} s: {tail}."])


def _device(row: Row) -> str:
    return f"{row['matmul_flops'] / TERA:.1f} TFLOP/s in bf16, {row['bandwidth'] / TERA:.3f} TB/s"


def _acting(row: Row) -> str:
    what = "action" if row["actions"] == 1 else f"{row['actions']} actions"
    return f"{row['milliseconds']:.2f} ms per {what}, {row['times_floor']:.2f} x the floor of {row['floor_milliseconds']:.2f}"


def _training(row: Row) -> str:
    speed = f"{row['samples_per_second']:.2f} samples/s, {row['flops_per_second'] / TERA:.2f} TFLOP/s"
    share = f"{100 * row['share_of_matmul']:.1f} % of the matrix product's"
    planned = f"planned {row['planned_bytes'] / GIGA:.2f} GB"
    peak = f"peak {row['peak_bytes'] / GIGA:.2f} GB, {planned}, ratio {row['peak_over_plan']:.3f}" if row["peak_bytes"] else planned
    return f"{speed}, {share}; {peak}"


_TEXTS = {"device": _device, "acting": _acting, "training": _training}
