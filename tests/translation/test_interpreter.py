"""The crane in a Python that has numpy, gymnasium, jaxtyping and msgpack, and none of our other packages."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_tune.environment import observation_in
from vla_tune.evaluation import in_processes, rollout
from vla_tune.evaluation.fingerprint import look_at
from vla_tune.execution import OpenLoop
from vla_tune.run.objects import build
from vla_tune.translation import in_interpreter

HERE = Path(__file__).parent / "outside"
NEEDS = ("numpy", "gymnasium", "farama_notifications", "cloudpickle", "jaxtyping", "wadler_lindig", "msgpack", "typing_extensions")


def written():
    return yaml.safe_load((HERE / "conf/env/crane.yaml").read_text())["make"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter without site-packages but these, and the crane's own module."""
    folder = tmp_path_factory.mktemp("bare")
    for name in NEEDS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        file = Path(spec.origin)
        there = file.parent if file.name == "__init__.py" else file
        (folder / there.name).symlink_to(there)
        for about in there.parent.glob(f"{name}-*.dist-info"):
            (folder / about.name).symlink_to(about)
        if (libraries := there.with_name(f"{name}.libs")).is_dir():
            (folder / libraries.name).symlink_to(libraries)
    (folder / "crane.py").symlink_to(HERE / "crane.py")
    start = folder / "python"
    start.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} -S "$@"\n')
    start.chmod(0o755)
    return str(start)


@pytest.fixture(scope="module")
def both(python):
    """The same crane there and here."""
    there = in_interpreter(task="right", python=python, make=written())
    here = build(written())(task="right")
    yield there, here
    there.close()
    here.close()


@pytest.mark.ci  # a process of its own
def test_it_shows_and_tells_what_it_does_here(both, crane):
    there, here = both
    assert there.action_space == here.action_space
    assert [there.metadata[name] for name in ("control_hz", "starts")] == [here.metadata["control_hz"], 5]
    assert there.spec.max_episode_steps == 25
    (shown, info), (expected, told) = (env.reset(seed=7, options={"episode": 3}) for env in both)
    for action in (None, *np.random.default_rng(0).uniform(-0.05, 1, (25, 4)).astype(np.float32)):
        if action is not None:
            (shown, *rest, info), (expected, *more, told) = (env.step(action) for env in both)
            assert rest == more
        assert info == told
        one, other = observation_in(shown, crane), observation_in(expected, crane)
        assert one.instruction == other.instruction
        np.testing.assert_array_equal(one.state, other.state)
        np.testing.assert_array_equal(one.images["front"], other.images["front"])
    assert rest[-1] is True  # its 25 steps are over
    late = shown["images"]["front"]
    there.reset(seed=1)
    with pytest.raises(RuntimeError, match="was not drawn before the next step"):
        late()


@pytest.mark.ci  # processes of their own
def test_a_policy_is_evaluated_there(python, crane, chaotic):
    node = {"_target_": "vla_tune.translation.in_interpreter", "_partial_": True, "_recursive_": False}
    make = partial(build(node | {"python": python, "make": written()}), task="left")
    play = partial(rollout, chaotic, suite="crane", task="left", seed=3, episodes=4, embodiment=crane, execution=OpenLoop())
    here = play(make_env=partial(build(written()), task="left"), num_envs=1)
    assert play(make_env=make, num_envs=2) == here
    assert play(make_env=make, num_envs=2, vectorize=in_processes) == here


@pytest.mark.ci  # a process of its own
def test_its_code_packages_and_state_are_those_there(python, both, crane, monkeypatch):
    there, _ = both
    cell = {"suite": "crane", "task": "right", "seed": 0, "embodiment": crane}
    with monkeypatch.context() as patch:
        patch.setattr(there, "close", lambda: None)
        look = look_at(lambda: there, **cell)
        said = there.code()
        assert {"gymnasium", "numpy"} <= said["packages"].keys()
        assert look.code["packages"]["numpy there"] == said["packages"]["numpy"]
        assert look.fingerprint["renderer"] is None, "nothing draws there"
        patch.setattr(there, "code", lambda: said | {"sources": "edited", "packages": {"mujoco": "3.9"}})
        patch.setattr(there, "physics", lambda: {"positions": np.ones(1)})
        patch.setattr(there, "renderer", lambda: "a GPU")
        other = look_at(lambda: there, **cell)
    assert other.code["sources"] != look.code["sources"]
    assert other.code["packages"]["mujoco there"] == "3.9"
    assert other.fingerprint["renderer"] == "a GPU"
    assert other.fingerprint["state"] != look.fingerprint["state"]
    assert other.fingerprint["frame"] == look.fingerprint["frame"]
    crane = Path(python).with_name("crane.py")
    text = crane.read_text()
    crane.unlink()
    crane.write_text(text + "# edited\n")
    assert there.code()["sources"] != said["sources"]


@pytest.mark.ci  # processes of their own
def test_what_is_wrong_there_is_told_here(python):
    with pytest.raises(ValueError, match="no interpreter can be started there"):
        in_interpreter(task="left", python="/nowhere/python", make=written())
    with pytest.raises(ValueError, match="of the environment's tasks has no 'up'"):
        in_interpreter(task="up", python=python, make=written())
    with pytest.raises(ValueError, match="no module of its names is installed in this interpreter"):
        in_interpreter(task="left", python=python, make={"_target_": "elsewhere.Env"})
    with pytest.raises(ValueError, match="'_recursive_' cannot be said"):
        in_interpreter(task="left", python=python, make=written() | {"_recursive_": False})
