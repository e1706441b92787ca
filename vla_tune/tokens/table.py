"""Findings in the terminal."""

from rich.console import Console
from rich.table import Table

from vla_tune.tokens.findings import Findings

_LOG_WIDTH = 160
_COLUMNS = ("dimension", "clipped", "saturated", "unused bins", "gripper lost", "mean error", "max error", "unit")


def print_findings(found: Findings, *, title: str) -> None:
    """A row for each dimension, the codes of a chunk, and the warnings; wide enough to be read where there is no terminal."""
    console = Console()
    wide = console if console.is_terminal else Console(width=_LOG_WIDTH)
    wide.print(findings_table(found, title=title))
    wide.print(
        f"{found.mean_codes:.1f} codes per chunk (at most {found.max_codes}) for {found.values} values, over {found.chunks:,} "
        f"chunks; {found.unused_codes} of {found.num_codes} codes never occur.",
        highlight=False,
        soft_wrap=True,
    )
    for warning in found.warnings:
        wide.print(f"[yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)
    if not found.warnings:
        wide.print("No warnings.")


def findings_table(found: Findings, *, title: str) -> Table:
    """A row for each dimension; errors in robot units."""
    table = Table(title=title)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("dimension", "unit") else "right")
    for each in found.dimensions:
        table.add_row(
            each.name,
            f"{each.clipped:.2%}",
            "" if each.saturated is None else f"{each.saturated:.2%}",
            "" if each.unused is None else f"{each.unused} of {found.num_codes}",
            "all" if each.collides else "" if each.lost is None else str(each.lost),
            f"{each.mean_error:.3g}",
            f"{each.max_error:.3g}",
            each.unit,
        )
    return table
