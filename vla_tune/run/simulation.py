"""The policy is tried in the environment that the configuration names."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from omegaconf import DictConfig

from envs.wrappers import DISTRACTOR
from vla_tune.check.finding import Finding
from vla_tune.check.replay import replay
from vla_tune.data.sources import Data
from vla_tune.data.transforms import Transform
from vla_tune.environment import observation_in, told
from vla_tune.evaluation.environments import check_actions, check_rate
from vla_tune.evaluation.kept import CELLS
from vla_tune.evaluation.plots import plot_success
from vla_tune.policy.local import to_sample
from vla_tune.printing import say
from vla_tune.run.base import why_not_tried
from vla_tune.run.evaluate import evaluate, execution_name
from vla_tune.run.folder import SUCCESS_PLOT
from vla_tune.run.following import ORDER, Row, Run, check_common, of_the_trained
from vla_tune.run.manifest import known_tasks
from vla_tune.run.objects import Trained, build, device_of, load_policy
from vla_tune.schema import Contract, Embodiment
from vla_tune.training.settings import check_whole

_WITHOUT = "correct env or task, or say evaluation=held_out, which needs no environment."
_NO_ENVIRONMENT = "evaluation=simulation has no environment: name one (env=...), or say evaluation=held_out or none."
_REFUSED = (gymnasium.error.Error, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Simulation:
    """Episodes of the task, and of the tasks that the base could do (`Following`)."""

    section: str = "evaluation"

    def before(self, cfg: DictConfig, data: Data, contract: Contract, pipeline: Transform) -> None:
        """Asks the environment of every task once whether it fits the robot."""
        check_common(cfg)
        _check_settings(cfg)
        base, body = Path(cfg.model.folder), contract.embodiment
        if (why := why_not_tried(base, body)) is not None:
            say(why)
        info = asked(cfg, cfg.task, body, pipeline)
        if DISTRACTOR not in info:
            say(f"A wrong instruction is not tried: the environment tells no info[{DISTRACTOR!r}].")
        for task in remembered(cfg, body):
            asked(cfg, task, body, pipeline)

    def of_base(self, run: Run, contract: Contract) -> list[Row]:
        """On the task, and on what it could do; every run of this base would play the same, so it is kept beside the runs."""
        cfg, base, body = run.cfg, Path(run.cfg.model.folder), contract.embodiment
        if why_not_tried(base, body) is not None:
            return []
        tasks, cells = [cfg.task, *remembered(cfg, body)], run.folder.parent / "base" / CELLS
        trained = load_policy(base, rows=cfg.evaluation.rows, device=device_of(cfg))
        return [evaluate(cfg, trained, policy="base", task=task, folder=cells) for task in tasks]

    def of_trained(self, run: Run, trained: Trained) -> list[Row]:
        """On the task, with a wrong instruction where the environment tells one, and on what the base could do."""
        cfg, cells = run.cfg, run.folder / CELLS
        told_wrong = DISTRACTOR in asked(cfg, cfg.task, trained.policy.contract.embodiment, trained.policy.pipeline)
        found = [evaluate(cfg, trained, policy="fine_tuned", task=cfg.task, folder=cells, films=True)]
        if told_wrong:
            found.append(evaluate(cfg, trained, policy="wrong_instruction", task=cfg.task, folder=cells))
        old = remembered(cfg, trained.policy.contract.embodiment)
        return found + [evaluate(cfg, trained, policy="fine_tuned", task=task, folder=cells) for task in old]

    def of_policy(self, run: Run, trained: Trained, *, name: str) -> dict[str, list[Row]]:
        """On the task alone."""
        if run.cfg.get("env") is None:
            raise ValueError(_NO_ENVIRONMENT)
        row = evaluate(run.cfg, trained, policy=name, task=run.cfg.task, folder=run.folder / CELLS, films=True)
        return {self.section: [row | {"execution": execution_name(run.cfg, trained.policy.contract)}]}

    def in_order(self, rows: Sequence[Row]) -> list[Row]:
        """Task by task, the base first."""
        tasks = list(dict.fromkeys(row["task"] for row in rows))
        return sorted(rows, key=lambda row: (tasks.index(row["task"]), ORDER.index(row["policy"])))

    def replayed(self, run: Run) -> Finding:
        """Recorded episodes from their own starts."""
        make_env = partial(build(run.cfg.env.make), task=run.cfg.task)
        return replay(run.data.validation, make_env, count=run.cfg.evaluation.replayed)

    def draw(self, run: Run, trained: Trained, rows: Sequence[Row]) -> None:
        """`success.png`."""
        plot_success(rows, run.folder / SUCCESS_PLOT, title=run.folder.name)

    def number(self, results: Mapping[str, Any]) -> float:
        """The failure rate on the task."""
        return 1.0 - of_the_trained(results[self.section])["success_rate"]


def remembered(cfg: DictConfig, body: Embodiment) -> list[str]:
    """Tasks other than the run's that the base could do: those that the user names, else those of the base's manifest."""
    base = Path(cfg.model.folder)
    if why_not_tried(base, body) is not None:
        return []
    named = cfg.evaluation.remembered
    tasks = known_tasks(base, suite=cfg.env.suite) if named is None else named
    return [task for task in tasks if task != cfg.task]


def asked(cfg: DictConfig, task: str, body: Embodiment, pipeline: Transform) -> Mapping[str, Any]:
    """What the environment of a task tells at its start; it is made, reset and closed.

    Raises:
        ValueError: it cannot be made, or does not fit the robot: its actions, cameras, state, rate, or the words that it says.
    """
    with _told_as_one_line(task):
        env: gymnasium.Env = build(cfg.env.make)(task=task)
        try:
            shown, info = env.reset(seed=0)
            check_actions(env.action_space.shape, body)
            check_rate(env.metadata, body)
            pipeline(to_sample(observation_in(shown, body), body))
            told(info)
        finally:
            env.close()
    return info


@contextmanager
def _told_as_one_line(task: str) -> Iterator[None]:
    try:
        yield
    except _REFUSED as error:
        said = str(error) if isinstance(error, ValueError | gymnasium.error.Error) else f"{type(error).__name__}: {error}"
        reason = " ".join(said.split()).rstrip(".")
        raise ValueError(f"The run cannot be tried in the environment of task={task}: {reason}. To go on, {_WITHOUT}") from error


def _check_settings(cfg: DictConfig) -> None:
    if cfg.get("env") is None:
        raise ValueError(_NO_ENVIRONMENT)
    for name, least in {"episodes": 1, "num_envs": 1, "seed": 0}.items():
        check_whole(f"evaluation.{name}", cfg.evaluation[name], least=least)
    if cfg.evaluation.max_steps is not None:
        check_whole("evaluation.max_steps", cfg.evaluation.max_steps, least=1)
