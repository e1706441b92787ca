"""Minutes by part."""

import subprocess
import sys

import pytest

from vla_tune.run import budget
from vla_tune.run.budget import Budget, in_words


def test_a_part_inside_another_counts_as_itself(monkeypatch):
    clock = iter([(0, 0), (60, 30), (180, 270), (240, 300), (300, 300), (600, 360)])
    monkeypatch.setattr(budget, "_now", lambda: next(clock))
    spent = Budget()
    with spent.part("train"), spent.part("record"):
        pass
    with spent.part("train"):
        pass
    assert list(spent.record) == ["record", "train"]
    assert spent.record["record"] == {"minutes": 2, "cpu_minutes": 4}
    assert spent.record["train"] == {"minutes": 2 + 5, "cpu_minutes": 1 + 1}
    assert in_words(spent.record) == "record 2.0 min (4.0 CPU min), train 7.0 min (2.0 CPU min), together 9.0 min (6.0 CPU min)"


def test_processes_are_counted_while_they_live_and_errors_pass():
    code = "sum(range(3_000_000)); print(flush=True); input()"
    command, spent = [sys.executable, "-S", "-c", code], Budget()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with pytest.raises(ValueError, match="broken"), spent.part("evaluate"):
            failing(process)
        process.communicate(b"\n")
    assert spent.record["evaluate"]["cpu_minutes"] > 0.02 / 60


def failing(process: subprocess.Popen) -> None:
    assert process.stdout is not None
    process.stdout.readline()
    raise ValueError("broken")
