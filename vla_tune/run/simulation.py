"""The policy is tried in the environment that the configuration names."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from omegaconf import DictConfig

from vla_tune.check.finding import Finding
from vla_tune.check.replay import replay
from vla_tune.data.sources import Data
from vla_tune.data.transforms import Transform
from vla_tune.environment import observation_in, told
from vla_tune.evaluation.fingerprint import of_several
from vla_tune.evaluation.fit import check_actions, check_rate
from vla_tune.evaluation.kept import CELLS
from vla_tune.evaluation.plots import plot_success
from vla_tune.evaluation.stats import mean_row, of_the_trained
from vla_tune.policy.local import to_sample
from vla_tune.printing import say
from vla_tune.run.base import why_not_tried
from vla_tune.run.evaluate import Venue, ablated_episodes, ablations_of, evaluate, execution_name, looked_at, maker_of
from vla_tune.run.folder import SUCCESS_PLOT
from vla_tune.run.following import Row, Run, check_common, place_of
from vla_tune.run.manifest import known_tasks
from vla_tune.run.objects import Trained, build, device_of, load_policy
from vla_tune.run.tasks import check_enough, chosen_tasks, listed_tasks, only_task
from vla_tune.run.venues import Skip, on_each
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
        """Asks environments once whether they fit the robot; where one lists its tasks, its first answers for all.

        Tasks that are listed differ in their words and things, not in what they show or take, and to make one may take ten seconds.
        """
        check_common(cfg)
        _check_settings(cfg)
        base, body, tasks = Path(cfg.model.folder), contract.embodiment, chosen_tasks(cfg)
        if (why := why_not_tried(base, body)) is not None:
            say(why)
        info = asked(cfg, tasks[0], body, pipeline)
        for name, ablation in ablations_of(cfg).items():
            if (why := ablation.why_not(info)) is not None:
                say(f"A {_words(name)} is not tried: {why}.")
        others = tasks[1:] if listed_tasks(cfg) is None else []
        for task in [*others, *remembered(cfg, body)]:
            asked(cfg, task, body, pipeline)

    def of_base(self, run: Run, contract: Contract) -> list[Row]:
        """On the tasks, and on what it could do; every run of this base would play the same, so it is kept beside the runs."""
        cfg, base, body = run.cfg, Path(run.cfg.model.folder), contract.embodiment
        if why_not_tried(base, body) is not None:
            return []
        cells, tasks, old = run.folder.parent / "base" / CELLS, chosen_tasks(cfg), remembered(cfg, body)
        trained = load_policy(base, rows=cfg.evaluation.rows, device=device_of(cfg))
        rows = _alone(cfg, trained, "base", [*tasks, *old], cells)
        return [*rows[: len(tasks)], *means(rows[: len(tasks)]), *rows[len(tasks) :]]

    def of_trained(self, run: Run, trained: Trained) -> list[Row]:
        """On the tasks, also with something taken away, and on what the base could do."""
        rows = _on_tasks(run, trained, name="fine_tuned")
        old = remembered(run.cfg, trained.policy.contract.embodiment)
        return rows + _alone(run.cfg, trained, "fine_tuned", old, run.folder / CELLS)

    def of_policy(self, run: Run, trained: Trained, *, name: str) -> dict[str, list[Row]]:
        """On the tasks alone, also with something taken away where that is asked for."""
        if run.cfg.get("env") is None:
            raise ValueError(_NO_ENVIRONMENT)
        execution = execution_name(run.cfg, trained.policy.contract)
        return {self.section: [row | {"execution": execution} for row in _on_tasks(run, trained, name=name)]}

    def in_order(self, rows: Sequence[Row]) -> list[Row]:
        """Task by task, the base first; means come last of the run's own tasks."""
        tasks = list(dict.fromkeys(row["task"] for row in rows))
        return sorted(rows, key=lambda row: (tasks.index(row["task"]), place_of(row["policy"])))

    def replayed(self, run: Run) -> Finding:
        """Recorded episodes from their own starts."""
        first = chosen_tasks(run.cfg)[0]

        def make_env(task: str | None) -> gymnasium.Env:
            return maker_of(run.cfg, only_task(task or first, what="a replay"))()

        return replay(run.data.validation, make_env, count=run.cfg.evaluation.replayed)

    def draw(self, run: Run, trained: Trained, rows: Sequence[Row]) -> None:
        """`success.png`."""
        plot_success(rows, run.folder / SUCCESS_PLOT, title=run.folder.name)

    def number(self, results: Mapping[str, Any]) -> float:
        """The failure rate on the task, or the mean one over the tasks."""
        return 1.0 - of_the_trained(results[self.section])["success_rate"]


def _on_tasks(run: Run, trained: Trained, *, name: str) -> list[Row]:
    """A policy on each of the run's tasks, also with something taken away; then its means over them."""
    cfg, tasks, ablations = run.cfg, chosen_tasks(run.cfg), ablations_of(run.cfg)
    filmed = tasks[: cfg.evaluation.get("filmed")]

    def of(task: str, venue: Venue, skip: Skip) -> list[Row]:
        look = looked_at(cfg, task, venue, trained)
        asked_of = partial(evaluate, cfg, trained, task=task, folder=run.folder / CELLS, venue=venue, look=look)
        tried = {policy: one for policy, one in ablations.items() if one.why_not(look.info) is None}
        skip((len(ablations) - len(tried)) * ablated_episodes(cfg))
        rows = [asked_of(policy=name, films=task in filmed)]
        return [*rows, *(asked_of(policy=policy, ablation=one) for policy, one in tried.items())]

    rows = on_each(cfg, trained, tasks, of, name=name, episodes=cfg.evaluation.episodes + len(ablations) * ablated_episodes(cfg))
    return rows + means(rows)


def _alone(cfg: DictConfig, trained: Trained, name: str, tasks: Sequence[str], cells: Path) -> list[Row]:
    """A policy on tasks, with nothing taken away."""

    def of(task: str, venue: Venue, skip: Skip) -> list[Row]:
        return [evaluate(cfg, trained, policy=name, task=task, folder=cells, venue=venue)]

    return on_each(cfg, trained, tasks, of, name=name, episodes=cfg.evaluation.episodes)


def means(rows: Sequence[Row]) -> list[Row]:
    """The mean of each policy over the tasks, where there are several."""
    by_policy: dict[str, list[Row]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append(row)
    return [mean_row(of) | of_several(of) for of in by_policy.values() if len(of) > 1]


def _words(name: str) -> str:
    return name.replace("_", " ")


def remembered(cfg: DictConfig, body: Embodiment) -> list[str]:
    """Tasks other than the run's that the base could do: those that the user names, else those of the base's manifest."""
    base = Path(cfg.model.folder)
    if why_not_tried(base, body) is not None:
        return []
    named, own = cfg.evaluation.remembered, chosen_tasks(cfg)
    tasks = known_tasks(base, suite=cfg.env.suite) if named is None else [str(task) for task in named]
    return [task for task in tasks if task not in own]


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
            check_enough(cfg, env.metadata, task=task)
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
    for name in ("max_steps", "ablated", "filmed"):
        if cfg.evaluation.get(name) is not None:
            check_whole(f"evaluation.{name}", cfg.evaluation[name], least=0 if name == "filmed" else 1)
