"""What is told stays as it is; tables can be read in a log."""

import pytest
from rich.table import Table

from vla_tune.printing import markdown, say, show


def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]):
    line = "runs/[bold]a: 1e-3 [0.1, 0.2] :+1: " + "x" * 300
    say(line)
    assert capsys.readouterr().out == line + "\n"


def test_where_there_is_no_terminal_a_table_is_wide(capsys: pytest.CaptureFixture[str]):
    table = Table("name", "x" * 100)
    table.add_row("a", "y" * 100)
    show(table, table)
    assert capsys.readouterr().out.count("y" * 100) == 2


def test_numbers_end_at_the_right():
    assert markdown(["run", "success [%]"], [["a", "96.0"]], left=1) == (
        "| run | success [%] |\n| --- | ---: |\n| a | 96.0 |\n"  # as GitHub reads it
    )
