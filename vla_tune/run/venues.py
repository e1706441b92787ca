"""Tasks that a policy is tried on, beside each other where their environments can live apart."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from omegaconf import DictConfig

from vla_tune.evaluation.beside import play_each
from vla_tune.evaluation.environments import Vectorize
from vla_tune.evaluation.progress import Telling, over_tasks, progress
from vla_tune.run.evaluate import Venue, maker_of
from vla_tune.run.following import Row
from vla_tune.run.objects import Trained, build
from vla_tune.schema import Policy
from vla_tune.workers.shelf import Shelf

Skip = Callable[[int], None]
"""Is told of episodes that are not played after all."""


def on_each(
    cfg: DictConfig,
    trained: Trained,
    tasks: Sequence[str],
    of: Callable[[str, Venue, Skip], list[Row]],
    *,
    name: str,
    episodes: int,
) -> list[Row]:
    """Rows task by task, in the order of the tasks, whichever ends first.

    Args:
        cfg: What the policy is tried in, and how.
        trained: The policy.
        tasks: Which tasks; the environments of each are made once, for all that is played there.
        of: Plays in the venue of a task.
        name: What the policy is called, whose rate is told meanwhile.
        episodes: How many are played of a task, at most.
    """
    with ExitStack() as stack:
        telling: Telling = progress
        skip: Skip = _nobody_is_told
        if len(tasks) > 1:
            telling = stack.enter_context(over_tasks(name, len(tasks), len(tasks) * episodes))
            skip = telling.far.skip

        def play(task: str, vectorize: Vectorize, num_envs: int, actor: Policy) -> list[Row]:
            with Shelf(maker_of(cfg, task)) as make_env:
                venue = Venue(make_env=make_env, vectorize=vectorize, num_envs=num_envs, actor=actor, telling=telling)
                return of(task, venue, skip)

        plays = [partial(play, task) for task in tasks]
        found = play_each(plays, trained.policy, vectorize=build(cfg.environments), num_envs=cfg.evaluation.num_envs)
    return [row for rows in found for row in rows]


def _nobody_is_told(episodes: int) -> None:
    pass
