"""A translated environment through the commands: tried by configuration, opened again where trusted, equal to the original."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import vla_tune.translation
from vla_tune.check.finding import CheckFailedError
from vla_tune.evaluation import rollout
from vla_tune.execution import OpenLoop
from vla_tune.record import STILL, Storage, record_demonstrations
from vla_tune.run.check import check
from vla_tune.run.evaluate import evaluate_run
from vla_tune.run.fine_tune import fine_tune
from vla_tune.run.objects import build
from vla_tune.run.stored import _MAKERS, _PARTS, environment_of, trusting
from vla_tune.schema import embodiment_from_record

OUTSIDE = Path(__file__).parents[1] / "translation/outside"
MINE = f"hydra.searchpath=[file://{OUTSIDE / 'conf'}]"
T = "vla_tune.translation."
TRUSTED = ["crane:Crane-v0", T + "StoredStarts"]


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    sys.path.insert(0, str(OUTSIDE))
    yield
    sys.path.remove(str(OUTSIDE))


def test_a_policy_is_tried_in_an_environment_by_one_yaml(run_of, configuration, tmp_path: Path):
    run = run_of("run", adapter="lora_r2", seed=1)
    tried = ["evaluation=simulation", "evaluation.episodes=3", "evaluation.num_envs=2", "evaluation.rows=2", "evaluation.films=[]"]
    cfg = configuration("eval", MINE, f"run={run}", "env=crane", "task=right", *tried, "evaluation.max_steps=4", "device=cpu")
    evaluate_run(cfg, tmp_path / "out")
    (row,) = json.loads((tmp_path / "out/results.json").read_text())["evaluation"]
    assert (row["task"], row["episodes"]) == ("right", 3)
    cfg = configuration("eval", MINE, f"run={run}", "env=crane", "task=right", *tried, "evaluation.episodes=6", "device=cpu")
    with pytest.raises(ValueError, match=r"evaluation.episodes=6: task=right has 5 stored starts, .*: say evaluation.episodes=5"):
        evaluate_run(cfg, tmp_path / "out")


def stored(folder: Path, **changed: Any) -> Path:
    make = yaml.safe_load((OUTSIDE / "conf/env/crane.yaml").read_text())["make"] | changed
    (folder / "config.yaml").write_text(yaml.safe_dump({"env": {"suite": "crane", "make": make}}))
    return folder


def test_a_runs_folder_opens_it_where_it_is_trusted(tmp_path: Path):
    with trusting(TRUSTED):
        env = environment_of(stored(tmp_path))(task="left")
    assert env.reset(seed=1)[0]["instruction"] == "put it to the left"


@pytest.mark.parametrize(
    ("trusted", "changed", "message"),
    [
        ([], {}, r"env.make translates 'crane:Crane-v0'.*trusted=\[<its id or type>\]"),
        (TRUSTED[:1], {}, "env.make.starts is 'vla_tune.translation.StoredStarts', which is not built.*trusted="),
        (TRUSTED, {"success": {"_target_": "os.mkdir", "path": "x"}}, "env.make.success is 'os.mkdir', which is not built"),
        (TRUSTED, {"instruction": {"_target_": T + "FromCall", "path": "close"}}, "FromCall', which is not built"),
        (TRUSTED, {"environment": {"_target_": "os.mkdir", "id": TRUSTED[0]}}, "env.make.environment is 'os.mkdir'"),
        (TRUSTED, {"environment": {"_target_": T + "FromLeRobot", "type": "pusht"}}, "translates 'pusht'"),
        (TRUSTED, {"_args_": ["x"]}, "'_args_', which is no setting"),
    ],
)
def test_a_runs_folder_asks_for_nothing_else(tmp_path: Path, trusted: list[str], changed: dict[str, Any], message: str):
    with trusting(trusted), pytest.raises(ValueError, match=message):
        environment_of(stored(tmp_path, **changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"starts": {"_target_": T + "StoredStarts", "states": {}, "set": "close"}}, "env.make.starts is .*StoredStarts'"),
        (
            {"starts": {"_target_": T + "StoredStarts", "states": {}, "set": "put", "observe": "close"}},
            "env.make.starts is .*Starts'",
        ),
        ({"cameras": {"image": {"_target_": T + "FromCall", "path": "close"}}}, "env.make.cameras.image is .*FromCall'"),
    ],
)
def test_a_runs_folder_calls_only_the_methods_of_libero_that_are_meant_for_it(
    tmp_path: Path, changed: dict[str, Any], message: str
):
    make = yaml.safe_load((Path(__file__).parents[2] / "conf/env/libero.yaml").read_text())["make"]
    make["environment"]["arguments"]["suite"] = "libero_object"

    def opened(**changed: Any) -> Any:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"env": {"suite": "libero_object", "make": make | changed}}))
        return environment_of(tmp_path)

    assert opened().keywords["environment"].id == "envs:vla_tune/Libero-v0"
    with pytest.raises(ValueError, match=message):
        opened(**changed)


def test_what_may_be_read_back_exists():
    named = {name.rpartition(".")[2] for name in (*_MAKERS, *_PARTS)}
    acting = {"in_interpreter", "FromCall", "SeedCall", "StatesInFile", "StoredStarts"}
    assert named | acting | {"Moment", "Translated", "translated"} == set(vla_tune.translation.__all__)


def test_the_tabletop_by_lerobots_plugin_is_the_tabletop(tiny_contract, chaotic):
    """Pictures, state, action, sentence and success come back through LeRobot's names, bit for bit."""
    shown = {"_target_": T + "FromObservation"}
    make = build(
        {
            "_target_": T + "translated",
            "_partial_": True,
            "environment": {"_target_": T + "FromLeRobot", "type": "vla_tune"},
            "tasks": {"_target_": T + "AnyTask", "argument": "task"},
            "cameras": {"front": {**shown, "key": "pixels.front"}},
            "state": [{**shown, "key": "agent_pos"}],
            "action": {
                "_target_": T + "Action",
                "dimension": 4,
                "parts": [{"_target_": T + "Numbers", "of": "0:4"}],
                "beyond": {"_target_": T + "Clip"},
            },
            "instruction": {"_target_": T + "FromAttribute", "path": "task_description"},
            "success": {"_target_": T + "FromInfo", "key": "is_success"},
            "horizon": 60,
            "control_hz": 10.0,
        }
    )
    native = build({"_target_": "gymnasium.make", "_partial_": True, "id": "envs:vla_tune/Tabletop-v0"})
    cell = {"suite": "s", "task": "touch", "seed": 3, "execution": OpenLoop(), "embodiment": tiny_contract.embodiment}
    play = partial(rollout, chaotic, episodes=3, num_envs=2, **cell)
    assert play(partial(make, task="touch")) == play(partial(native, task="touch"))
    first, again = (env(task="touch").reset(seed=5)[0] for env in (make, native))
    assert np.array_equal(first["images"]["front"](), again["images"]["front"])


def to_the_left(env: Any) -> np.ndarray:
    at = env.unwrapped.at
    return np.array([np.clip(-0.7 - at, -0.05, 0.05), np.sin(9 * at), np.cos(9 * at), 0.9 + 0.1 * np.sin(99 * at)], np.float32)


@pytest.mark.ci  # the whole way
def test_recorded_trained_tried_and_checked_there(base: Path, configuration, tmp_path: Path, capsys):
    """By `env=` said again, and by `trusted=` from what the run's folder says."""
    body = embodiment_from_record(yaml.safe_load((OUTSIDE / "conf/embodiment/crane.yaml").read_text()))
    make = build(yaml.safe_load((OUTSIDE / "conf/env/crane.yaml").read_text())["make"])
    storage = {"noise": STILL, "storage": Storage("image"), "seed": 0, "episodes": 6}
    record_demonstrations(tmp_path / "data", make_env=partial(make, task="left"), expert=to_the_left, embodiment=body, **storage)
    data = ["data=folder", f"data.sources.0.folder={tmp_path / 'data'}", "data.held_out=0.3", "embodiment@data.embodiment=crane"]
    small = ["training.steps=2", "training.batch_size=4", "horizon=4", "validation.frames=8", "validation.predicted=4"]
    tried = ["evaluation.episodes=2", "evaluation.num_envs=2", "evaluation.rows=2", "evaluation.films=[]"]
    probed = ["validation.seen=4", "evaluation.probed=4", "evaluation.replayed=2", "optimizer.learning_rate=1e-2"]
    words = [MINE, *data, *small, "evaluation=simulation", *tried, *probed, "evaluation.remembered=[]", "env=crane", "task=left"]
    run, own = tmp_path / "run", [f"model.folder={base}", "adapter=lora_r2", "device=cpu"]
    fine_tune(configuration("train", *words, *own), run, resume_command="")
    rows = json.loads((run / "results.json").read_text())["evaluation"]
    assert [(row["policy"], row["task"]) for row in rows] == [("fine_tuned", "left")]
    checked = ["frames=2", "device=cpu", "replayed=2"]
    with pytest.raises(ValueError, match="translates 'crane:Crane-v0'"):
        check(configuration("check", f"run={run}", *checked))
    said = []
    for more, trusted in (([MINE, "env=crane"], []), ([], TRUSTED)):
        with trusting(trusted), suppress(CheckFailedError):  # two steps teach nothing
            check(configuration("check", *more[:1], f"run={run}", *more[1:], *checked))
        said.append([finding for finding in json.loads((run / "check.json").read_text()) if finding["probe"] == "replay"])
    assert said[0] == said[1]
    assert said[0][0]["passed"], said
