"""The crane of `tests/translation/outside`, which the package has never seen."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from vla_tune.run.objects import build
from vla_tune.schema import Embodiment, embodiment_from_record

OUTSIDE = Path(__file__).parents[1] / "translation" / "outside"


@pytest.fixture(scope="module")
def crane_module() -> Iterator[Any]:
    """The crane's module, which processes find as we do."""
    sys.path.insert(0, str(OUTSIDE))
    import crane  # pyright: ignore[reportMissingImports]

    yield crane
    sys.path.remove(str(OUTSIDE))


@pytest.fixture(scope="module")
def crane() -> Embodiment:
    return embodiment_from_record(yaml.safe_load((OUTSIDE / "conf/embodiment/crane.yaml").read_text()))


@pytest.fixture(scope="module")
def make_crane(crane_module: Any) -> Any:
    """As its YAML says."""
    return build(OmegaConf.create(yaml.safe_load((OUTSIDE / "conf/env/crane.yaml").read_text())["make"]))
