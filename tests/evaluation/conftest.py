"""A world of one dimension: walk to the goal, whose place and name follow from the seed."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from vla_tune.data import build_pipeline
from vla_tune.evaluation import EpisodeRecord, write_episodes
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.policy import LocalPolicy
from vla_tune.schema import content_hash

COLOURS = ("red", "green", "blue")


class Line(gymnasium.Env):
    steps_taken = 0  # by all of them

    def __init__(self, limit: int = 12):
        self.limit = limit
        self.observation_space = spaces.Dict(
            {
                "images": spaces.Dict({"front": spaces.Box(0, 255, (64, 64, 3), np.uint8)}),
                "state": spaces.Box(-1, 1, (4,), np.float32),
                "instruction": spaces.Text(40, charset="abcdefghijklmnopqrstuvwxyz "),
            }
        )
        self.action_space = spaces.Box(-1, 1, (4,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert not (options or {}).keys() - {"episode"}
        self.colour = str(self.np_random.choice(COLOURS))
        self.background = self.np_random.integers(0, 256, 3)
        self.goal = self.np_random.uniform(0.02, 0.18)
        self.position, self.ticks = 0.0, 0
        return self.observe(), {}

    def observe(self):
        image = np.full((64, 64, 3), self.background, np.uint8)
        image[:, : int(64 * np.clip(self.position + 0.5, 0, 1))] = 255
        state = np.array([self.position, self.goal, 0.05, self.ticks % 2], np.float32)
        return {"images": {"front": image}, "state": state, "instruction": f"touch the {self.colour} block"}

    def step(self, action):
        Line.steps_taken += 1
        self.position += float(action[0])
        self.ticks += 1
        success = self.position > self.goal
        return self.observe(), float(success), success, self.ticks >= self.limit, {"success": success}


@dataclass(eq=False)
class Walker:
    """Walks by (0.005, 0.02], as its observation says; predicts T = 3 actions."""

    batches: list[int] = field(default_factory=list)

    def act(self, observations):
        self.batches.append(len(observations))
        speeds = [0.005 + 0.015 * (observation.images["front"][0, -1, 0] / 255) for observation in observations]
        return np.array(speeds)[:, None, None] * np.array([[1.0, 0, 0, 0]] * 3)

    def reset(self):
        pass


@pytest.fixture
def line():
    Line.steps_taken = 0
    return Line


@pytest.fixture
def walker():
    return Walker()


@pytest.fixture
def random_policy(tiny_model, tiny_head, tiny_tokenizer, tiny_contract):
    return LocalPolicy(
        tiny_head.over(tiny_model),
        build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)),
        tiny_contract,
        pad_id=512,
        rows=4,
    )


@pytest.fixture
def body(tiny_contract):
    return tiny_contract.embodiment


def make_records(outcomes, *, task="lift", seed=0):
    record = partial(EpisodeRecord, suite="s", task=task, instruction="lift it", steps=3, episode_return=0.0, outside_mass=None)
    return [record(episode=index, seed=seed + index, success=bool(outcome)) for index, outcome in enumerate(outcomes)]


@pytest.fixture
def records_of():
    return make_records


def keep_evaluation(run: Path, outcomes: str, *, seed: int = 1, policy: str = "fine_tuned", begun: bool = False, **about) -> Path:
    """A run that kept an evaluation; `outcomes` has a 1 for each success, `about` is what its cell says otherwise."""
    cell = {
        "policy": policy,
        "identity": run.name,
        "suite": "tabletop",
        "task": "lift",
        "environment": "plain",
        "code": {"sources": "s1", "packages": {"mujoco": "3.8.0"}, "ours": "o1"},
        "episodes": len(outcomes),
        "seed": seed,
        "execution": {"kind": "OpenLoop"},
        "rules": {"success": "Once", "max_steps": None},
    } | about
    records = [
        replace(record, suite=cell["suite"], seed=1000 * seed + record.episode)
        for record in make_records([outcome == "1" for outcome in outcomes], task=cell["task"])
    ]
    name = f"{policy}-{cell['task']}-{content_hash(cell)[:12]}{'.begun' if begun else ''}.parquet"
    write_episodes(run / "evaluation" / name, records, key=cell)
    return run


@pytest.fixture
def keep():
    return keep_evaluation
