"""Seeded episodes of a policy in an environment; one record per episode, whatever runs side by side."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing

from vla_tune.evaluation.environments import MakeEnv, Vectorize, in_turn
from vla_tune.evaluation.episodes import EpisodeRecord, episode_seed
from vla_tune.evaluation.fit import check_fit, check_seeding
from vla_tune.evaluation.stage import Episode, Rules, Stage
from vla_tune.evaluation.watcher import NOBODY, Watcher
from vla_tune.execution import Execution, Player
from vla_tune.schema import Embodiment, Policy


def to_stderr(message: str) -> None:
    """Tells the user what is no result."""
    print(message, file=sys.stderr)


def rollout(
    policy: Policy,
    make_env: MakeEnv,
    *,
    suite: str,
    task: str,
    episodes: int,
    seed: int,
    embodiment: Embodiment,
    execution: Execution,
    num_envs: int,
    rules: Rules | None = None,
    done: Sequence[EpisodeRecord] = (),
    vectorize: Vectorize = in_turn,
    watcher: Watcher = NOBODY,
    tell: Callable[[str], None] = to_stderr,
) -> list[EpisodeRecord]:
    """Records of episodes 0 to `episodes` - 1, each from its own seed, `num_envs` side by side.

    The policy is asked for the environments that need a chunk, as many as its forward pass has rows, while the others go on; what
    it does not see is not drawn. A deterministic policy leads to the same records at every `num_envs`.

    Args:
        policy: Acts in the embodiment's units, which are those of the environment.
        make_env: Makes an environment of `task`: observations {"images": {name: uint8 [H W 3]}, "state": float32 [S],
            "instruction": str}, and `info["success"]` at every step, or only when there is one. An image has the name of its
            camera: the key, an end of it, or the role (`vla_tune.environment.names_of_pictures`).
        suite: Name of the set of tasks; part of the seeds.
        task: Name of the task; part of the seeds.
        episodes: How many.
        seed: Where all randomness comes from.
        embodiment: Says which picture is which camera, and which action dimension is a gripper.
        execution: How chunks become actions.
        num_envs: How many environments at once.
        rules: When an episode is over, and what counts as a success.
        done: Episodes that were played before; they are not played again.
        vectorize: `in_turn` or `in_processes`.
        watcher: Sees every tick of the episodes at which it looks.
        tell: Told, in a line, of episodes that the rules cut.

    Raises:
        ValueError: a number is not positive; or the environment ignores its seed, does not fit the embodiment, shows what is not
            finite, never tells of success, or does not end.
        ChildProcessError: an environment's process ended.
    """
    for name, value in {"episodes": episodes, "num_envs": num_envs}.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1.")
    rules, known = rules or Rules(), {record.episode: record for record in done}
    seeds = [episode_seed(seed, suite=suite, task=task, episode=index) for index in range(episodes)]
    players = {i: Player(execution.timeline(embodiment)) for i in range(episodes) if i not in known}
    cast = [Episode(suite, task, i, seeds[i], player) for i, player in players.items()]
    if cast:
        with closing(vectorize(make_env, min(num_envs, len(cast)), embodiment)) as pool:
            check_fit(pool.about(), embodiment)
            check_seeding(pool, seeds[0])
            policy.reset()
            _play(policy, Stage(pool, cast, watcher, rules), rules, task, tell)
    played = known | {episode.index: episode.record for episode in cast}
    return [played[index] for index in range(episodes)]


def _play(policy: Policy, stage: Stage, rules: Rules, task: str, tell: Callable[[str], None]) -> None:
    stage.play(policy)
    if not stage.told:
        raise ValueError(
            "the environment never told info['success'], at no reset and no step: wrap it so that every step does; if it tells of "
            "a success only when it happens, let reset tell False."
        )
    if stage.cut:
        tell(f"{task}: {stage.cut} episodes were cut after max_steps={rules.max_steps} steps.")
