"""A behaviour cloner by the commands: trained from nothing, stopped and gone on with, checked, merged, exported, served, driven."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate

from vla_tune.run.check import check
from vla_tune.run.control import control
from vla_tune.run.export import export_run
from vla_tune.run.fine_tune import fine_tune
from vla_tune.run.merge import merge_run
from vla_tune.run.objects import load_policy
from vla_tune.run.plan import planned
from vla_tune.run.recorded import recorded_observations
from vla_tune.run.serve import _policies
from vla_tune.run.stored import checkpoint_of, data_of, own_classes
from vla_tune.schema import Contract

ARMS = Path(__file__).parents[2] / "run" / "own_robots"
MINE = f"hydra.searchpath=[file://{ARMS / 'conf'}]"
SMALL = [
    *("training.steps=4", "training.batch_size=4", "horizon=4", "model.sizes.width=8", "model.sizes.hidden=32", "model.size=32"),
    *("validation.frames=8", "validation.predicted=4", "validation.seen=4", "evaluation.frames=6", "evaluation.drawn=1"),
    *("evaluation.probed=4", "data.held_out=0.3", "device=cpu"),
]
LOOSE = ["tolerance.mean_error=10.0", "tolerance.drift_noise=10.0", "tolerance.loss_noise=10.0"]


@pytest.fixture(scope="module")
def own_arms() -> Iterator[Any]:
    sys.path.insert(0, str(ARMS))
    yield import_module("own_arms")
    sys.path.remove(str(ARMS))


def test_one_word_chooses_all_that_it_needs(configuration):
    """On the tabletop and on a robot of one's own; the user's words win."""
    own = configuration("train", "model=bc", "data=folder", "data.sources.0.folder=mine", "embodiment@data.embodiment=aloha")
    assert (own.head, own.tokens, own.adapter._target_) == ({}, {}, "vla_tune.adapters.Full")
    assert (own.optimizer.learning_rate, own.training.steps, own.horizon, own.augmentation.shift) == (1e-3, 2000, 8, 0.016)
    sizes = instantiate(own.model).sizes
    assert (sizes["cameras"], sizes["state_dimension"], sizes["action_dimension"], sizes["horizon"]) == (3, 14, 14, 8)
    lift = configuration("train", "model=bc", "seed=3")
    assert (lift.horizon, lift.training.steps, lift.evaluation.episodes, lift.model.seed) == (4, 1000, 100, 3)
    assert lift.optimizer.learning_rate == 1e-3
    assert own_classes({"model": {"_target_": lift.model._target_}}) == []
    mine = configuration(
        "train", "model=bc", "average=last", "augmentation=none", "optimizer.learning_rate=3e-4", "training.steps=7"
    )
    assert (mine.average._target_, mine.augmentation) == ("vla_tune.training.average.Last", None)
    assert (mine.optimizer.learning_rate, mine.training.steps) == (3e-4, 7)


def test_it_is_planned_before_it_exists(configuration):
    cfg = configuration("plan", "model=bc", "gpu=rtx4090")
    plan = planned(cfg, device=instantiate(cfg.gpu))
    assert plan.fits
    assert plan.model.total == plan.model.trainable == 1_095_696
    assert plan.bytes_.optimizer > 3 * plan.bytes_.weights, "two moments and the mean"


@pytest.mark.ci  # the whole way
@pytest.mark.parametrize("robot", ["two_arms", "eyes_only"])
def test_from_data_to_a_driver(robot: str, own_arms: Any, configuration, interrupted_after, tmp_path: Path):
    """Three cameras; and none of the state."""
    own_arms.record(tmp_path / "data", own_arms.embodiment(robot), episodes=4, frames=8)
    given = [MINE, "data=folder", f"data.sources.0.folder={tmp_path / 'data'}", f"embodiment@data.embodiment={robot}", "model=bc"]
    run, robots = tmp_path / "run", tmp_path / "robot"
    with interrupted_after(2), pytest.raises(KeyboardInterrupt):
        fine_tune(configuration("train", *given, *SMALL), run, resume_command="")
    fine_tune(configuration("train", *given, *SMALL), run, resume_command="")
    results = json.loads((run / "results.json").read_text())
    assert {row["policy"] for row in results["open_loop"]} >= {"fine_tuned"}
    assert results["costs"]["not_mergeable"] is None
    assert Contract.load(run).model == {"family": "bc", "size": 32, "words": "crc32"}
    assert checkpoint_of(run).folder == "nothing"
    merge_run(configuration("merge", f"run={run}", "observations=6", *LOOSE))
    export_run(configuration("export", f"run={run}", f"to={robots}", "frames=2", "observations=6", *LOOSE))
    check(configuration("check", f"policy={robots}", "device=cpu"))
    served = _policies(configuration("serve", f"policy={robots}", "device=cpu")).examined(unproved=False)
    assert [finding.passed for finding in served] == [True]
    live, merged = (load_policy(folder, rows=2, device="cpu").policy for folder in (run, robots))
    seen = recorded_observations(data_of(run), count=4)
    np.testing.assert_allclose(live.act(seen), merged.act(seen), atol=1e-4)
    drive = [MINE, f"robot={robot}", f"policy={robots}", f"to={tmp_path / 'log'}", f"stop_file={tmp_path / 'STOP'}", "device=cpu"]
    (outcome,) = control(configuration("control", *drive, "instruction=raise the arm", "seconds=1.0", "margin=5"))
    assert outcome.counts.ticks > 10
    assert outcome.counts.failures == 0
    more = configuration("train", *given, *SMALL, f"model.folder={run / 'merged'}")
    fine_tune(more, tmp_path / "more", resume_command="")  # it goes on from weights that were written
    assert checkpoint_of(tmp_path / "more").folder == str(run / "merged")
