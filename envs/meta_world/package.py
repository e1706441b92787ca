"""The package `metaworld`, and the sentences that LeRobot's data set of it has for its tasks."""

import json
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

_SENTENCES = "envs/metaworld_config.json"


def imported(module: str) -> ModuleType:
    """A module of Meta-World.

    Raises:
        ValueError: the extra is not installed.
    """
    if find_spec("metaworld") is None:
        raise ValueError(
            "Meta-World is not installed: say uv run --extra metaworld python ..., or pip install 'metaworld>=3,<3.1'."
        )
    return import_module(module)


@cache
def sentences() -> dict[str, str]:
    """Task -> what is asked for, word for word as in `lerobot/metaworld_mt50`: the file lies in LeRobot's package."""
    found = find_spec("lerobot")
    assert found is not None  # a dependency
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0]) / _SENTENCES
    return json.loads(path.read_text())["TASK_DESCRIPTIONS"]
