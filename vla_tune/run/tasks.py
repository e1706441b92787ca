"""The tasks that a run is about: one, some, or all that its environment lists."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from vla_tune.environment import STARTS, TASKS
from vla_tune.run.manifest import is_task

ALL = "all"
"""What `task` may say of an environment that lists its tasks."""


def tasks_of(task: Any, listed: Sequence[Any] | None = None) -> list[str]:
    """The names of the tasks that `task` means: a word, a list of words, or `all`.

    Args:
        task: As a configuration has it; a number is taken for a word.
        listed: `env.tasks`, where the environment lists its tasks.

    Raises:
        ValueError: it names none, one twice, one that is not listed, or all where none are listed.
    """
    known = None if listed is None else [str(name) for name in listed]
    if task == ALL:
        if not known:
            raise ValueError("task=all: the environment lists no tasks (env.tasks): name them, task=[<one>,<other>].")
        return known
    several = task if isinstance(task, Sequence) else []
    names = [str(name) for name in ([task] if isinstance(task, str | int) else several)]
    if not names or not all(map(is_task, names)):
        raise ValueError(f"task={task!s:.80} names no task: one word, a list task=[<one>,<other>], or {ALL}.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"task: {twice[0]!r} is named twice.")
    if unknown := [name for name in names if known is not None and name not in known]:
        raise ValueError(f"task={unknown[0]} is none of the environment's (env.tasks): {', '.join(known or [])}.")
    return names


def chosen_tasks(cfg: DictConfig) -> list[str]:
    """Those of a configuration, of whose environment some may be listed.

    Raises:
        ValueError: as `tasks_of` does.
    """
    return tasks_of(cfg.task, listed_tasks(cfg))


def listed_tasks(cfg: DictConfig) -> list[str] | None:
    """What the environment of a configuration lists; None where it lists nothing."""
    listed = None if cfg.get("env") is None else cfg.env.get("tasks")
    return None if listed is None else [str(name) for name in listed]


def check_enough(cfg: DictConfig, metadata: Mapping[str, Any], *, task: str) -> None:
    """Refuse tasks, or more episodes than stored starts, that the environment of a task says there are not.

    A policy that draws nothing repeats itself in a start that it met before: such an episode is not one more.

    Raises:
        ValueError: there are fewer.
    """
    known, starts = metadata.get(TASKS), metadata.get(STARTS)
    if known is not None and (unknown := [name for name in chosen_tasks(cfg) if name not in map(str, known)]):
        raise ValueError(f"task={unknown[0]}: {cfg.env.suite} has {len(known)} tasks, say task=[{','.join(map(str, known))}].")
    asked = {name: cfg.evaluation.get(name) for name in ("episodes", "ablated")}
    for name, count in asked.items():
        if starts is not None and count is not None and count > starts:
            raise ValueError(
                f"evaluation.{name}={count}: task={task} has {starts} stored starts, and to play one again tells nothing new: say "
                f"evaluation.{name}={starts}, or fewer."
            )


def only_task(task: Any, *, what: str) -> str:
    """The one task that a command is about.

    Raises:
        ValueError: there are several.
    """
    names = [ALL] if task == ALL else tasks_of(task)
    if len(names) > 1 or names == [ALL]:
        raise ValueError(f"task={in_words(task)}: {what} is about one task: task=<name>.")
    return names[0]


def in_words(task: Any) -> str:
    """As a title says it: a word, or names with commas between them."""
    return str(task) if isinstance(task, str | int) else ", ".join(map(str, task))
