import json
from io import StringIO

import pytest
from rich.console import Console

from vla_tune.evaluation import success_row
from vla_tune.evaluation.report import read_results, success_table
from vla_tune.evaluation.stats import mean_row
from vla_tune.schema import write_json


@pytest.fixture
def rows(records_of):
    plain = success_row(policy="base", task="lift", records=records_of([0] * 20))
    more = success_row(policy="fine_tuned", task="stack", records=records_of([1] * 15 + [0] * 133))
    return [plain, more | {"execution": "open_loop", "decay": 0.0123456}]


def test_the_terminal_shows_counts_and_per_cent(rows):
    console = Console(width=120, file=StringIO())
    console.print(success_table(rows, title="Lift and stack"))
    text = console.file.getvalue()
    assert "Lift and stack" in text
    assert all(word in text for word in ("fine_tuned", "0/20", "15/148", "10.1 %", "6.2 to 16.0 %", "0.01235"))


def test_a_mean_is_a_line_of_its_own(rows):
    console = Console(width=160, file=StringIO())
    console.print(success_table([*rows, mean_row(rows)]))
    text = console.file.getvalue()
    assert "mean of 2 tasks" in text
    assert "15/168" in text
    assert "tasks " not in text.splitlines()[2], "which tasks these are, the lines above say"


def test_protocol_and_other_worlds_are_told(rows):
    def shown(*rows):
        console = Console(width=200, file=StringIO())
        console.print(success_table(rows, title="Lift"))
        return console.file.getvalue()

    one, other = ({"protocol": name, "fingerprint": {"renderer": name, "environment": "e"}} for name in ("libero", "fast"))
    assert shown(rows[0] | one, rows[0] | one).splitlines()[0].strip() == "Lift (protocol libero)"
    both = shown(rows[0] | one, rows[0] | other)
    assert "protocol ┃" in both
    assert "Not one world, so do not compare: these rows differ in renderer (libero, fast)." in " ".join(both.split())
    assert "fingerprint" not in both


def test_results_survive_the_file(rows, tmp_path):
    path = tmp_path / "run" / "results.json"
    write_json(path, {"evaluation": rows, "training": {"loss": 0.5, "steps": 10}})
    assert read_results(path) == {"evaluation": rows, "training": {"loss": 0.5, "steps": 10}}
    assert list(json.loads(path.read_text())) == ["evaluation", "training"]
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_failed_write_leaves_the_old_results(rows, tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"evaluation": rows, "training": {}})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"evaluation": rows, "training": {"loss": float("nan")}})
    assert read_results(path)["training"] == {}
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        success_table([])
