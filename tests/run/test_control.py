"""scripts/control.py: a policy on the simulated robot, in this process and over a websocket."""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vla_tune.control.live import AtAddress, InFile, InViewer
from vla_tune.control.robot import RobotError
from vla_tune.control.simulated import SimulatedRobot
from vla_tune.execution import AsTrained, OpenLoop, RecedingHorizon, TemporalEnsemble
from vla_tune.run import control as module
from vla_tune.run.control import control
from vla_tune.run.objects import build
from vla_tune.schema import ColumnStatistics, Contract


@pytest.fixture
def settings(configuration, tmp_path: Path):
    """The configuration of a short run."""

    def make(*overrides: str):
        given = [f"to={tmp_path / 'log'}", f"stop_file={tmp_path / 'STOP'}", "seconds=2.0", "device=cpu", "unproved=true"]
        return configuration("control", *given, *overrides)

    return make


class Still:
    """Stays where it is."""

    def __init__(self) -> None:
        self.answers: list[int] = []

    def act(self, observations):
        self.answers.append(len(observations))
        return np.zeros((len(observations), 4, 4), np.float32)

    def reset(self) -> None: ...


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "ticks.jsonl").read_text().splitlines()]


def test_every_tick_is_kept_as_a_line_and_as_a_dataset(base, settings, tmp_path: Path):
    outcomes = control(settings(f"policy={base}", "episodes=2"))
    ticks = lines(tmp_path / "log")
    assert [outcome.success for outcome in outcomes] == [False, False]
    assert len(ticks) == sum(outcome.counts.ticks for outcome in outcomes)
    assert {tick["episode"] for tick in ticks} == {0, 1}
    dataset = LeRobotDataset("local/log", root=tmp_path / "log" / "dataset")
    assert dataset.num_episodes == 2
    assert dataset.num_frames == len(ticks)
    moved = [index for index, tick in enumerate(ticks) if tick["sent"][0] is not None]
    assert moved
    for index in moved[:3]:
        assert np.allclose(dataset[index]["action"].numpy(), ticks[index]["sent"])
        assert np.allclose(dataset[index]["action.command"].numpy(), ticks[index]["command"])
    assert json.loads((tmp_path / "log" / "results.json").read_text())["episodes"] == 2
    assert (tmp_path / "log" / "actions.png").stat().st_size > 5000
    (film,) = (tmp_path / "log" / "films").iterdir()
    assert film.name == "episode_000_failure.mp4"
    with av.open(str(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) == sum(1 for tick in ticks if tick["episode"] == 0)
    with pytest.raises(ValueError, match="holds the log of an earlier run"):
        control(settings(f"policy={base}"))


def test_a_policy_that_is_not_proved_does_not_drive(base, settings, tmp_path: Path):
    with pytest.raises(ValueError, match=r"base holds no probe\.safetensors.*say unproved=true"):
        control(settings(f"policy={base}", "unproved=false"))
    assert not (tmp_path / "log").exists()


def test_over_the_websocket_the_server_acts(served, settings, tmp_path: Path):
    chunk = np.tile(np.array([0.01, 0, 0, 1], np.float32), (4, 1))
    with served(lambda observations, names: [chunk] * len(observations)) as address:
        control(settings(f"policy={address.url}", "ticks=lines", "live=file"))
    played = [tick["raw"] for tick in lines(tmp_path / "log") if tick["raw"][0] is not None]
    assert len(played) > 5
    assert np.allclose(played, chunk[0])
    assert not (tmp_path / "log" / "dataset").exists()
    assert (tmp_path / "log" / "live.rrd").stat().st_size > 10_000


def test_a_live_view_is_a_choice(settings):
    for name, kind in (("viewer", InViewer), ("address", AtAddress), ("file", InFile)):
        assert isinstance(build(settings("policy=nowhere", f"live={name}").live).keywords["open"], kind)


def test_a_stop_file_stops_it_before_it_moves(base, settings, tmp_path: Path):
    (tmp_path / "STOP").touch()
    (outcome,) = control(settings(f"policy={base}", "ticks=lines", "episodes=1"))
    assert outcome.state == "STOP"
    assert "STOP exists" in outcome.reason
    assert all(tick["sent"][0] is None for tick in lines(tmp_path / "log"))


def gone(policy: Still, robot: SimulatedRobot) -> None:
    def reset() -> None:
        if len(policy.answers) > 0:
            raise ConnectionError("the server is gone")

    policy.reset = reset


def crashing(policy: Still, robot: SimulatedRobot) -> None:
    def step(action):
        raise RuntimeError("the simulator's process ended")

    robot.env.step = step


def broken(policy: Still, robot: SimulatedRobot) -> None:
    def observe():
        raise KeyError("the bus")

    robot.observe = observe


@pytest.mark.parametrize(
    ("failing", "error", "message", "episodes"),
    [
        (gone, ConnectionError, "^the server is gone$", 2),
        (crashing, RobotError, r"^the environment failed in step\(\): RuntimeError: the simulator's process ended$", 1),
        (broken, RobotError, r"^the robot failed: KeyError: 'the bus' \(.*failure.txt says where\)$", 1),
    ],
)
def test_whatever_fails_what_was_played_is_written_and_said_in_a_line(
    settings, tiny_contract, tmp_path: Path, monkeypatch, failing, error, message, episodes
):
    policy, start = Still(), SimulatedRobot.start

    @contextmanager
    def acting(cfg):
        yield policy, tiny_contract

    def begin(robot, seed):
        start(robot, seed)
        failing(policy, robot)

    monkeypatch.setattr(module, "acting", acting)
    monkeypatch.setattr(SimulatedRobot, "start", begin)
    with pytest.raises(error, match=message):
        control(settings("policy=nowhere", "ticks=lines", "films=[]", "episodes=3", "seconds=0.3"))
    record = json.loads((tmp_path / "log" / "results.json").read_text())
    assert record["episodes"] == episodes
    assert len(record["stopped"]) == 1
    assert record["ticks"] == (3 if failing is gone else 0)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ["robot.limits._target_=vla_tune.control.limits.Limits", "~robot.limits.margin"],
            ValueError,
            "limits are missing for tool_translation. A robot is not moved without",
        ),
        (["robot.state_of={suction: suction}"], ValueError, "action group 'tool_translation' is not measured"),
        (["+robot.limits.groups.arm={step: 1}"], ValueError, "limits for arm, but the continuous action groups are"),
        (["policy=ws://localhost:9", "remote.patience=0.2"], OSError, "cannot be reached within 0.2 s"),
        (["policy=nowhere"], OSError, "nowhere"),
        (["policy=ws://localhost:9", "use=best"], ValueError, "use=best chooses a checkpoint of a run's folder: say it where ws:"),
        (["step=3"], ValueError, "base holds no checkpoints: leave out use= and step="),
    ],
)
def test_what_does_not_fit_is_said_before_anything_moves(base, settings, tmp_path: Path, overrides, error, message):
    policy = [] if any(part.startswith("policy=") for part in overrides) else [f"policy={base}"]
    with pytest.raises(error, match=message):
        control(settings(*policy, *overrides))
    assert not (tmp_path / "log" / "ticks.jsonl").exists()


class Own(gymnasium.Env):
    """Nothing of the tabletop: joints or unitless motions, a camera, perhaps no state."""

    def __init__(self, task: str, actions: int, state: int) -> None:
        self.action_space, self.state, self.received = spaces.Box(-1, 1, (actions,), np.float32), state, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action):
        self.received.append(action)
        return self._see(), 0.0, False, False, {"success": len(self.received) > 3}

    def _see(self):
        state = {"state": np.zeros(self.state, np.float32)} if self.state else {}
        picture = np.full((8, 8, 3), len(self.received), np.uint8)
        return {"images": {"front": picture}, "instruction": "go"} | state


def own_contract(contract: Contract, *, dimension: int, state: int, **kind) -> Contract:
    """Of a robot with one action group, which lies from -1 to 1."""
    group = replace(contract.embodiment.action[0], name="motion", dimension=dimension, **kind)
    groups = (replace(group, representation="absolute"),) if state else ()
    camera = replace(contract.embodiment.cameras[0], height=8, width=8)
    body = replace(contract.embodiment, name="own", action=(group,), state=groups, cameras=(camera,))

    def column(size: int) -> ColumnStatistics:
        low, high = (-1.0,) * size, (1.0,) * size
        return ColumnStatistics(
            mean=(0.0,) * size, std=high, min=low, max=high, q01=low, q99=high, normalization=("quantile",) * size
        )

    statistics = replace(contract.statistics, action=column(dimension), state=column(state))
    return replace(contract, embodiment=body, statistics=statistics)


@pytest.mark.parametrize(
    ("dimension", "state", "kind"),
    [
        (3, 3, {"unit": "1", "representation": "delta"}),
        pytest.param(14, 14, {"unit": "rad", "representation": "absolute"}, marks=pytest.mark.ci),
        (14, 0, {"unit": "rad", "representation": "absolute"}),
    ],
)
def test_an_environment_of_ones_own_is_played_by_its_name_alone(
    settings, tiny_contract, tmp_path: Path, monkeypatch, dimension, state, kind
):
    contract = own_contract(tiny_contract, dimension=dimension, state=state, **kind)

    class Goes(Still):
        def act(self, observations):
            return np.full((len(observations), 4, dimension), 0.75, np.float32)

    @contextmanager
    def acting(cfg):
        yield Goes(), contract

    monkeypatch.setattr(module, "acting", acting)
    gymnasium.register("pretend/Own-v0", Own, kwargs={"actions": dimension, "state": state})
    try:
        (outcome,) = control(settings("policy=nowhere", "env.make.id=pretend/Own-v0", "seconds=1.0"))
    finally:
        gymnasium.registry.pop("pretend/Own-v0")
    assert (outcome.success, outcome.counts.clamped) == (True, 0)
    sent = [tick["sent"] for tick in lines(tmp_path / "log") if tick["sent"][0] is not None]
    assert len(sent) > 3
    assert np.allclose(sent, 0.75, atol=1e-3)
    assert LeRobotDataset("local/log", root=tmp_path / "log" / "dataset").num_frames == outcome.counts.ticks


@pytest.mark.parametrize(("word", "execution"), [([], RecedingHorizon(3, 1)), (["execution=open_loop"], OpenLoop(1))])
def test_it_looks_again_as_often_as_the_contract_says_unless_told_otherwise(settings, tiny_contract, word, execution):
    cfg, contract = settings("policy=nowhere", *word), replace(tiny_contract, execute_steps=3)
    robot = build(cfg.robot.make)(embodiment=contract.embodiment)
    assert module._parts(cfg, robot, Still(), contract).execution == execution


@pytest.mark.parametrize(
    ("words", "execution"),
    [
        (["strategy=as_trained"], AsTrained(blend=1)),
        (["strategy=open_loop", "strategy.blend=0"], OpenLoop(blend=0)),
        (["strategy=receding", "strategy.steps=3"], RecedingHorizon(steps=3, blend=1)),
        (["strategy=receding", "strategy._target_=vla_tune.control.strategy.RecedingHorizon"], RecedingHorizon(steps=2, blend=1)),
        (["strategy=ensemble"], TemporalEnsemble(decay=0.01)),
        (["strategy=ensemble", "strategy._target_=vla_tune.control.strategy.Ensemble"], TemporalEnsemble(decay=0.01)),
    ],
)
def test_the_old_names_of_an_execution_answer(settings, capsys, words, execution):
    assert build(module._execution(settings("policy=nowhere", *words))) == execution
    assert "strategy= is called execution= now" in capsys.readouterr().out


def test_more_steps_than_a_chunk_has_are_refused_before_anything_moves(settings, tiny_contract):
    cfg = settings("policy=nowhere", "execution=receding", "execution.steps=5")
    robot = build(cfg.robot.make)(embodiment=tiny_contract.embodiment)
    with pytest.raises(ValueError, match=r"steps=5.*choose 1 to 4"):
        module._parts(cfg, robot, Still(), tiny_contract)
