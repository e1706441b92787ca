"""An environment whose packages cannot be installed beside ours, in a Python of its own."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from vla_tune.translation.wrapper import check_present, space_of
from vla_tune.workers import Process


def in_interpreter(*, task: str, python: str, make: Mapping[str, Any]) -> gymnasium.Env:
    """The environment that `make` describes, in the interpreter `python`, which has its packages and not ours.

    Plain data cross a pipe, nothing is unpickled; pictures cross when somebody looks. That interpreter needs Python 3.12, numpy,
    gymnasium, jaxtyping and msgpack.

    Args:
        task: The word in `task=`.
        python: Path of the interpreter, as `/opt/simulator/bin/python`.
        make: What `env.make` would say if its packages were here: a `_target_` with its arguments. In a YAML, `_recursive_: false`
            beside it leaves the making to the interpreter.

    Raises:
        ValueError: there is no such interpreter, or the environment cannot be made there.
        ChildProcessError: the interpreter ended, as one without these packages does.
    """
    process = Process(python)
    try:
        process.ask("build", {"make": {**make}, "task": task})
        process.answer()
        return Elsewhere(process)
    except BaseException:
        process.close()
        raise


class Elsewhere(gymnasium.Env):
    """An environment in another process; `in_interpreter` makes it."""

    def __init__(self, process: Process) -> None:
        self._process, self._steps = process, 0
        about = self._called("about")
        box = about["action"]
        self.action_space = Box(box["low"], box["high"], dtype=np.dtype(box["dtype"]).type)
        self.metadata = about["metadata"]
        self.spec = EnvSpec("vla_tune/Elsewhere-v0", max_episode_steps=about["limit"]) if about["limit"] else None
        self.observation_space = space_of(self.reset(seed=0)[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Resets it there."""
        super().reset(seed=seed)
        state, names, info = self._called("reset", seed=seed, options=options or {})
        return self._shown(state, names), info

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Steps it there."""
        state, names, reward, terminated, truncated, info = self._called("step", action=np.asarray(action))
        return self._shown(state, names), reward, terminated, truncated, info

    def code(self) -> dict[str, Any]:
        """What it is written as there: hash and versions (`vla_tune.workers.code.code_of`)."""
        return self._called("code")

    def physics(self) -> dict[str, np.ndarray]:
        """MuJoCo's positions and velocities, where it has them."""
        return self._called("physics")

    def renderer(self) -> str | None:
        """Who drew its last picture."""
        return self._called("renderer")

    def close(self) -> None:
        """Ends the process."""
        self._process.close()

    def _shown(self, state: dict[str, Any], names: list[str]) -> dict[str, Any]:
        self._steps += 1
        return {**state, "images": {name: partial(self._draw, name, self._steps) for name in names}}

    def _draw(self, name: str, step: int) -> np.ndarray:
        check_present(name, step, self._steps)
        return self._called("draw", name=name)

    def _called(self, method: str, **arguments: Any) -> Any:
        self._process.ask(method, arguments)
        return self._process.answer()
