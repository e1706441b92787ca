"""A result belongs to the code behind it: the environment's own files, what they import, and versions of packages."""

import sys
from functools import partial

import gymnasium
import pytest

from envs.wrappers import DistractorInstruction
from vla_tune.evaluation import code as module
from vla_tune.evaluation.code import code_of
from vla_tune.workers.shelf import Shelf

WORLD = """
import gymnasium, {sibling}

class World(gymnasium.Env):
    rule = {rule}

def make():
    return World()
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The code of an environment in files of somebody else's, under names that nobody has."""
    monkeypatch.syspath_prepend(tmp_path)
    names = ("own_world_of_tests", "own_rules_of_tests", "own_box_of_tests")

    def written(rule: bool = True, sibling: str = "limit = 1", described: str = "<world/>", package: bool = False) -> dict:
        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            del sys.modules[name]
        box = tmp_path / names[2]
        box.mkdir(exist_ok=True)
        (box / "__init__.py").write_text("")
        (box / "inner.py").write_text(WORLD.format(rule=rule, sibling=names[1]))
        (box / "scene.xml").write_text(described)
        (tmp_path / f"{names[0]}.py").write_text(WORLD.format(rule=rule, sibling=names[1]))
        (tmp_path / f"{names[1]}.py").write_text(sibling)
        module = __import__(f"{names[2]}.inner", fromlist=["make"]) if package else __import__(names[0])
        return code_of(module.make)

    return written


@pytest.mark.parametrize("package", [False, True])
def test_edited_files_are_other_code(world, package):
    code = world(package=package)
    assert world(package=package) == code
    assert world(rule=False, package=package) != code
    assert world(sibling="limit = 2", package=package) != code
    assert (world(described="<other/>", package=package) != code) == package


def test_a_maker_that_keeps_what_it_made_has_the_code_of_the_one_within(world):
    """What it is given to read with lies in files of somebody else's too."""
    world()
    own = sys.modules["own_world_of_tests"]
    make = partial(lambda read: gymnasium.Env(), own.make)
    alone, kept = code_of(make), code_of(Shelf(make))
    assert kept["sources"] == alone["sources"] != code_of(partial(lambda read: gymnasium.Env(), 1))["sources"]


def test_the_built_in_environment_and_its_wrappers_are_seen():
    make = partial(gymnasium.make, "envs:vla_tune/Tabletop-v0", task="lift", disable_env_checker=True)
    assert {"gymnasium", "mujoco", "numpy", "torch", "transformers"} <= code_of(make)["packages"].keys()
    assert code_of(lambda: DistractorInstruction(make())) != code_of(make)


def test_packages_that_are_named_in_words_are_seen(world):
    assert "rich" not in world()["packages"]
    import rich  # noqa: F401

    found = world(sibling="from importlib import import_module; import_module('rich')")["packages"]
    assert "rich" in found
    assert "rich" not in world(sibling="word = 'rich'")["packages"]


def test_meshes_of_a_package_are_seen(monkeypatch):
    asked = {"simulator": ["numpy<3", "simulator-assets-1==0.1", "simulator_assets_2 ; extra == 'all'"]}
    monkeypatch.setattr(module, "_distributions", lambda: {"world": ["simulator"], "other": ["thing"]})
    monkeypatch.setattr(module.metadata, "requires", lambda name: asked.get(name))
    assert module._assets({"world", "other"}) == {"simulator-assets-1", "simulator_assets_2"}


def test_other_versions_are_other_code(world, monkeypatch):
    before = world()
    monkeypatch.setattr(module.metadata, "version", lambda name: "0.0")
    assert world()["packages"] != before["packages"]
    assert world()["sources"] == before["sources"]
