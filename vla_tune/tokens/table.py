"""Findings in the terminal."""

from rich.table import Table
from rich.text import Text

from vla_tune.printing import say, show
from vla_tune.tokens.findings import Findings

_COLUMNS = ("dimension", "clipped", "saturated", "unused bins", "gripper lost", "mean error", "max error", "unit")


def print_findings(found: Findings, *, title: str) -> None:
    """A row for each dimension, the codes of a chunk, and the warnings; wide enough to be read where there is no terminal."""
    show(findings_table(found, title=title))
    say(
        f"{found.mean_codes:.1f} codes per chunk (at most {found.max_codes}) for {found.values} values, over {found.chunks:,} "
        f"chunks; {found.unused_codes} of {found.num_codes} codes never occur."
    )
    for warning in found.warnings:
        say(Text.assemble(("warning:", "yellow"), " ", warning))
    if not found.warnings:
        say("No warnings.")


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
