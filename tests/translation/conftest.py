"""A crane that the package has never seen, and the folder of options that describes it."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml
from omegaconf import OmegaConf

from vla_tune.run.objects import build
from vla_tune.schema import Embodiment, embodiment_from_record

HERE = Path(__file__).parent / "outside"


@pytest.fixture(scope="session", autouse=True)
def importable() -> Iterator[None]:
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))


@pytest.fixture(scope="session")
def crane() -> Embodiment:
    return embodiment_from_record(yaml.safe_load((HERE / "conf/embodiment/crane.yaml").read_text()))


def written() -> dict[str, Any]:
    return yaml.safe_load((HERE / "conf/env/crane.yaml").read_text())["make"]


def without(node: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name not in names}


@pytest.fixture
def make_of() -> Callable[..., Callable[..., gymnasium.Env]]:
    """What makes the crane as its YAML says, with other keys (dots for nested ones), or without some (None)."""

    def make(**changed: Any) -> Callable[..., gymnasium.Env]:
        node = OmegaConf.create(written())
        for key, value in changed.items():
            OmegaConf.update(node, key.replace("__", "."), value, merge=False)
        return build(node)

    return make


@pytest.fixture
def chaotic(chaotic):
    """Mostly to one side."""
    return replace(chaotic, low=(-0.08, -1, -1, 0), high=(0.04, 1, 1, 1))


@pytest.fixture
def make_without() -> Callable[..., Callable[..., gymnasium.Env]]:
    """What makes the crane without some keys, and with others."""
    return lambda *names, **more: build(without(written(), *names) | more)
