"""Who makes the environment that is translated, and what a task's name means to it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import distributions
from typing import Any, Protocol, runtime_checkable

import gymnasium
from gymnasium.wrappers import TimeLimit

from vla_tune.translation.paths import in_mapping


@runtime_checkable
class Maker(Protocol):
    """Makes an environment."""

    def __call__(self, **more: Any) -> gymnasium.Env:
        """With these arguments beside its own."""
        ...


@runtime_checkable
class TaskInto(Protocol):
    """What the word in `task=` means."""

    def __call__(self, task: str) -> Mapping[str, Any]:
        """Arguments with which the environment of this task is made.

        Raises:
            ValueError: there is no such task.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Registered:
    """An environment by its gymnasium id, `module:Name-v0` where a module registers it."""

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, **more: Any) -> gymnasium.Env:
        """Makes it, without a limit of its own: `horizon` is the limit.

        Raises:
            ValueError: its arguments name a limit, or are not those that it takes.
        """
        arguments = {"disable_env_checker": True, **self.arguments, **more}
        if "max_episode_steps" in arguments:
            raise ValueError(f"{self.id}: max_episode_steps is no argument here; say horizon, which counts the robot's own steps.")
        with _naming_arguments(self.id):
            return gymnasium.make(self.id, max_episode_steps=-1, **arguments)


@dataclass(frozen=True, kw_only=True)
class FromLeRobot:
    """An environment of LeRobot by the `type` of its configuration, its own or that of an installed `lerobot_env_*` plug-in."""

    type: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, **more: Any) -> gymnasium.Env:
        """The environment that such a configuration makes, without its limit of steps: `horizon` is the limit.

        Raises:
            ValueError: there is no such type, it does not take such arguments, or makes several environments where one is wanted.
        """
        from lerobot.envs import EnvConfig  # torch comes along

        for plugin in _plugins():
            import_module(plugin)
        known = EnvConfig.get_known_choices()
        if self.type not in known:
            raise ValueError(f"LeRobot has no environment of type {self.type!r}; it has {', '.join(sorted(known))}.")
        with _naming_arguments(
            f"{self.type}, as LeRobot's configuration makes it (with its id, vla_tune.translation.Registered does too)"
        ):
            suites = known[self.type](**self.arguments, **more).create_envs(n_envs=1, use_async_envs=False)
        made = [(f"{suite} {number}", envs) for suite, tasks in suites.items() for number, envs in tasks.items()]
        if len(made) != 1:
            for _, envs in made:
                envs.close()
            raise ValueError(f"{self.type} makes {', '.join(name for name, _ in made)}: let `tasks` and `arguments` choose one.")
        return _without_limit(made[0][1].envs[0])


def _without_limit(env: gymnasium.Env) -> gymnasium.Env:
    """Without gymnasium's limits, which settling would use up; what an environment itself counts stays."""
    if isinstance(env, TimeLimit):
        return _without_limit(env.env)
    if isinstance(env, gymnasium.Wrapper):
        env.env = _without_limit(env.env)
    return env


@contextmanager
def _naming_arguments(name: str) -> Iterator[None]:
    """Says whose arguments are wrong."""
    try:
        yield
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _plugins() -> list[str]:
    """Modules of installed plug-ins, by LeRobot's rule for their names."""
    names = {str(found.metadata["Name"]).replace("-", "_") for found in distributions()}
    return sorted(name for name in names if name.startswith("lerobot_env_"))


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Tasks by name, each with the arguments that differ for it (`{}` for none)."""

    of: Mapping[str, Mapping[str, Any]]

    def __call__(self, task: str) -> Mapping[str, Any]:
        """Those of the task."""
        return in_mapping(self.of, task, where="of the environment's tasks")


@dataclass(frozen=True, kw_only=True)
class AnyTask:
    """Any name, handed to the environment as one of its arguments."""

    argument: str

    def __call__(self, task: str) -> Mapping[str, Any]:
        """It alone."""
        return {self.argument: task}
