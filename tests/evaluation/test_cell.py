from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla_tune.environment import AtTheEnd
from vla_tune.evaluation import Cell, evaluate_cell, finished, policy_identity, read_episodes, write_episodes
from vla_tune.evaluation.cell import Again
from vla_tune.evaluation.stage import Rules
from vla_tune.execution import OpenLoop, RecedingHorizon, TemporalEnsemble

CELL = Cell(
    policy="base",
    identity="abc",
    suite="line",
    task="walk",
    environment="Line(12)",
    protocol="walking",
    code={"sources": "12"},
    fingerprint={"renderer": None, "frame": "a1", "state": "b2"},
    episodes=5,
    seed=0,
    execution=RecedingHorizon(2),
    rules=Rules(),
)


@pytest.fixture
def play(tmp_path, walker, line, body):
    def evaluate(cell=CELL, num_envs=2, **options):
        return evaluate_cell(tmp_path, cell, policy=walker, make_env=line, embodiment=body, num_envs=num_envs, **options)

    return evaluate


def test_a_finished_cell_is_read_and_not_played_again(play, walker, tmp_path):
    assert finished(tmp_path, CELL) is None
    first = play()
    assert len(first) == 5
    assert walker.batches
    walker.batches.clear()
    assert play(num_envs=3) == first == finished(tmp_path, CELL)
    assert not walker.batches


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "merged"},
        {"identity": "abd"},
        {"suite": "lines"},
        {"task": "run"},
        {"environment": "Line(13)"},
        {"protocol": "running"},
        {"code": {"sources": "13"}},
        {"fingerprint": {"renderer": "a GPU", "frame": "a1", "state": "b2"}},
        {"episodes": 4},
        {"seed": 1},
        {"execution": RecedingHorizon(1)},
        {"execution": OpenLoop()},
        {"execution": TemporalEnsemble(0.5)},
        {"rules": Rules(max_steps=3)},
        {"rules": Rules(success=AtTheEnd())},
    ],
)
def test_whatever_differs_is_another_cell(play, tmp_path, change):
    play()
    other = replace(CELL, **change)
    assert finished(tmp_path, other) is None
    play(other)
    assert len(list(tmp_path.iterdir())) == 2  # and no partial file is left


@pytest.mark.parametrize("ticks", [0, 9, 11])
def test_a_killed_cell_goes_on_where_it_was(play, walker, line, tmp_path, ticks, monkeypatch):
    whole = play()
    CELL.path(tmp_path).unlink()
    act, asked = walker.act, iter(range(ticks))

    def killed(observations):
        if next(asked, None) is None:
            raise KeyboardInterrupt
        return act(observations)

    with monkeypatch.context() as patch:
        patch.setattr(walker, "act", killed)
        with pytest.raises(KeyboardInterrupt):
            play()
    assert finished(tmp_path, CELL) is None
    kept = [record for path in tmp_path.iterdir() for record in read_episodes(path)[0]]
    assert (ticks > 0) == bool(kept)
    assert len(kept) < 5
    line.steps_taken, told = 0, []
    assert play(tell=told.append) == whole
    assert len(told) == bool(kept)
    assert all(f"{len(kept)} of 5 episodes read from {tmp_path}" in line for line in told)
    assert 0 < line.steps_taken == sum(record.steps for record in whole) - sum(record.steps for record in kept)
    assert [path.name for path in tmp_path.iterdir()] == [CELL.path(tmp_path).name]


def test_it_is_told_what_is_read_and_again_plays(play, line, tmp_path):
    first, told = play(), []
    line.steps_taken = 0
    assert play(tell=told.append) == first
    assert line.steps_taken == 0
    assert told == [f"base on walk: read from {CELL.path(tmp_path)}; cells=again plays it again."]
    assert play(cells=Again()) == first
    assert line.steps_taken > 0


def test_a_table_that_says_nothing_of_itself_is_passed_over(play, line, tmp_path):
    records, told = play(), []
    CELL.path(tmp_path).unlink()
    write_episodes(tmp_path / f"{CELL.policy}-{CELL.task}-0.parquet", records)
    assert play(tell=told.append) == records
    assert told == []


def test_it_is_told_why_it_is_played_again(play, line):
    play()
    for changes, names in {
        ("protocol",): "protocol",
        ("fingerprint", "code"): "code.sources, fingerprint.frame, fingerprint.renderer",
        ("seed",): None,
        ("protocol", "episodes"): None,
    }.items():
        other = {"protocol": "running", "code": {"sources": "13"}, "seed": 3, "episodes": 4}
        other |= {"fingerprint": {"renderer": "a GPU", "frame": "a2", "state": "b2"}}
        told, line.steps_taken = [], 0
        play(replace(CELL, **{name: other[name] for name in changes}), tell=told.append)
        assert line.steps_taken > 0
        assert told == ([] if names is None else [f"base on walk: played before with another {names}; it is played again."])


def test_a_damaged_table_of_another_cell_is_passed_over(play, tmp_path):
    records, told = play(), []
    CELL.path(tmp_path).rename(other := tmp_path / f"{CELL.policy}-{CELL.task}-0.parquet")
    other.write_bytes(other.read_bytes()[:-9])
    assert play(tell=told.append) == records
    assert told == []


def test_an_edited_file_is_refused(play, tmp_path):
    records = play()
    write_episodes(CELL.path(tmp_path), records[:3], key=CELL.record)
    with pytest.raises(ValueError, match="delete it"):
        play()
    write_episodes(CELL.path(tmp_path), records, key=replace(CELL, seed=9).record)
    with pytest.raises(ValueError, match="delete it"):
        play()


def test_records_survive_the_file(tmp_path, records_of):
    records = records_of([1, 0, 1])
    write_episodes(tmp_path / "deep" / "table.parquet", records, key={"b": 1, "a": [2]})
    assert read_episodes(tmp_path / "deep" / "table.parquet") == (records, {"a": [2], "b": 1})


def test_the_identity_of_a_policy_is_its_content(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "contract.json").write_text("{}")
    (two / "notes.txt").write_text("not part of the policy")
    run = {"precision": "bf16", "rows": 8}
    same = policy_identity([one], run=run)
    assert policy_identity([two], run=run) == same
    assert policy_identity([one], run=run | {"rows": 4}) != same
    assert policy_identity([one, two], run=run) != same
    (two / "contract.json").write_text("{ }")
    assert policy_identity([two], run=run) != same
    (one / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        policy_identity([one], run=run)


def test_a_table_of_something_else_is_one_line(tmp_path):
    tables = [pa.table({"a": [1]}), pa.table({"a": [1]}).replace_schema_metadata({"vla_tune.key": "[" * 100_000})]
    for table in tables:
        pq.write_table(table, tmp_path / "table.parquet")
        with pytest.raises(ValueError, match="delete it to play the cell again"):
            read_episodes(tmp_path / "table.parquet")
    (tmp_path / "table.parquet").write_text("no table")
    with pytest.raises(ValueError, match="delete it to play the cell again"):
        read_episodes(tmp_path / "table.parquet")
