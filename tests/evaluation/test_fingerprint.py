"""Two numbers belong to one world where its start, its drawing and its code are one."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from vla_tune.evaluation.fingerprint import VARIES, look_at, mixed, of_several, told_in_a_row

CELL: dict[str, Any] = {"suite": "line", "task": "walk", "seed": 0}


@pytest.fixture
def look_of(body):
    return partial(look_at, embodiment=body, **CELL)


@pytest.fixture(scope="module")
def tabletop(tiny_contract):
    make = partial(gymnasium.make, "envs:vla_tune/Tabletop-v0", task="lift", disable_env_checker=True)
    return look_at(make, embodiment=tiny_contract.embodiment, **CELL)


def test_a_start_is_the_same_every_time(line, look_of):
    look = look_of(line)
    assert look_of(line) == look
    assert look.fingerprint["renderer"] is None
    changes: list[dict[str, Any]] = [{"seed": 1}, {"task": "run"}, {"suite": "lines"}]
    for other in (look_of(line, **change).fingerprint for change in changes):
        assert look.fingerprint["frame"] != other["frame"]
        assert look.fingerprint["state"] != other["state"]


def test_pictures_that_are_drawn_with_noise_vary(line, look_of):
    class Noisy(line):
        draws = 0

        def observe(self):
            Noisy.draws += 1
            shown = super().observe()
            return shown | {"images": {"front": lambda: shown["images"]["front"] ^ np.uint8(Noisy.draws)}}

    look, plain = look_of(Noisy), look_of(line)
    assert look.fingerprint == dict(plain.fingerprint) | {"frame": VARIES}


def test_mujoco_is_asked_who_draws_and_where_things_are(tabletop, look_of):
    assert len(str(tabletop.fingerprint["renderer"]).split(", ")) >= 3
    assert tabletop.code["packages"]["mujoco"].startswith("3.")
    make = partial(gymnasium.make, "envs:vla_tune/Tabletop-v0", task="lift", disable_env_checker=True)

    class Moved(gymnasium.Wrapper):
        def reset(self, **options):
            shown, info = self.env.reset(**options)
            self.unwrapped.scene.data.qpos[0] += 1e-9  # pyright: ignore[reportAttributeAccessIssue]
            return shown, info

    moved = look_of(lambda: Moved(make())).fingerprint
    assert moved["frame"] == tabletop.fingerprint["frame"], "nobody sees it"
    assert moved["state"] != tabletop.fingerprint["state"]


def test_rows_of_two_worlds_say_so(tabletop):
    mark = told_in_a_row(tabletop, environment="{}")
    assert mark["packages.mujoco"] == tabletop.code["packages"]["mujoco"]
    rows = [{"task": task, "protocol": "p", "fingerprint": mark | {"frame": task}} for task in ("lift", "touch")]
    assert mixed([*rows, {"task": "of an older version"}]) == {}
    other = rows[0] | {"fingerprint": rows[0]["fingerprint"] | {"renderer": "a GPU", "frame": "x"}}
    assert mixed([*rows, other]) == {"renderer": [mark["renderer"], "a GPU"], "frame": ["lift", "x"]}
    elsewhere = rows[0] | {"fingerprint": told_in_a_row(tabletop, environment="{'gain': 2}") | {"renderer": "a GPU"}}
    assert mixed([*rows, elsewhere]) == {}, "another environment was meant"


def test_a_mean_has_what_its_tasks_share(tabletop):
    mark = told_in_a_row(tabletop, environment="{}")
    rows = [{"task": task, "protocol": "p", "fingerprint": mark | {"frame": task}} for task in ("lift", "touch")]
    shared = of_several(rows)
    assert shared["protocol"] == "p"
    assert shared["fingerprint"] == {name: value for name, value in mark.items() if name not in ("frame", "state")}
    assert of_several([{"task": "of an older version"}]) == {}
