"""What a user is told: lines and tables in the terminal, and tables for a file."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_LOG_WIDTH = 160
"""Characters of a table where there is no terminal: a log can be scrolled."""


def say(text: str | Text) -> None:
    """Print a text as it is: lines stay whole, and nothing in a string is taken for colours."""
    Console().print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)


def show(*tables: Table) -> None:
    """Print tables, wide enough to be read where there is no terminal."""
    console = Console()
    wide = console if console.is_terminal else Console(width=_LOG_WIDTH)
    for table in tables:
        wide.print(table)


def rounded(seconds: float) -> str:
    """A time to wait: whole seconds, or whole minutes from 90 s on."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]], *, left: int) -> str:
    """A table in markdown; the first `left` columns are words, the others numbers, which end at the right."""
    ends = ["---" if column < left else "---:" for column in range(len(head))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ends, *lines))
