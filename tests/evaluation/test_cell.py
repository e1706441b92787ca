from dataclasses import replace

import pytest

from vla_tune.environment import AtTheEnd
from vla_tune.evaluation import Cell, evaluate_cell, finished, policy_identity, read_episodes, write_episodes
from vla_tune.evaluation.stage import Rules
from vla_tune.execution import OpenLoop, RecedingHorizon, TemporalEnsemble

CELL = Cell(
    policy="base",
    identity="abc",
    suite="line",
    task="walk",
    environment="Line(12)",
    episodes=5,
    seed=0,
    execution=RecedingHorizon(2),
    rules=Rules(),
)


@pytest.fixture
def play(tmp_path, walker, line, body):
    def evaluate(cell=CELL, num_envs=2):
        return evaluate_cell(tmp_path, cell, policy=walker, make_env=line, embodiment=body, num_envs=num_envs)

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


def test_a_killed_cell_leaves_nothing_behind_that_counts(play, walker, tmp_path, monkeypatch):
    def killed(observations):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(walker, "act", killed)
        with pytest.raises(KeyboardInterrupt):
            play()
    assert finished(tmp_path, CELL) is None
    assert len(play()) == 5


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
