"""An environment of what the keys of a YAML say."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature

import gymnasium
from gymnasium.wrappers import TimeLimit

from vla_tune.translation.actions import ActionTo
from vla_tune.translation.makers import Maker, TaskInto
from vla_tune.translation.sources import Source
from vla_tune.translation.starts import SeedInto, Settle, StartFrom
from vla_tune.translation.wrapper import Parts, Translated, naming


def _naming_what_is_missing[**P, T](make: Callable[P, T]) -> Callable[P, T]:
    """The same function, that says which keys it misses, and which it does not know."""
    takes = signature(make).parameters

    @wraps(make)
    def checked(*args: P.args, **keys: P.kwargs) -> T:
        missing = [name for name, key in takes.items() if key.default is Parameter.empty and name not in keys]
        unknown = [name for name in keys if name not in takes]
        if missing or unknown:
            said = [f"has no {', '.join(missing)}"] if missing else []
            said += [f"has {', '.join(unknown)}, which it does not take"] if unknown else []
            raise ValueError(f"env.make {' and '.join(said)}; it takes {', '.join(name for name in takes if name != 'task')}.")
        return make(*args, **keys)

    return checked


@_naming_what_is_missing
def translated(
    *,
    task: str,
    environment: Maker,
    tasks: TaskInto,
    cameras: Mapping[str, Source],
    state: Sequence[Source],
    action: ActionTo,
    instruction: Source,
    success: Source,
    horizon: int,
    control_hz: float,
    distractor: Source | None = None,
    seed: SeedInto | None = None,
    starts: StartFrom | None = None,
    settle: Settle | None = None,
) -> gymnasium.Env:
    """An environment as an evaluation wants it, of what `conf/env/<name>.yaml` says.

    Args:
        task: The word in `task=`.
        environment: Makes the environment (`Registered`, `FromLeRobot`).
        tasks: What the word means to it (`Tasks`, `AnyTask`).
        cameras: Role, or name, of each camera -> where its picture is read from.
        state: Where the numbers of the robot's state are read from, in their order; none for a robot without a state.
        action: How an action leaves (`Action`).
        instruction: Where the sentence is read from, after the reset.
        success: Where it is read whether the goal is reached, after every step.
        horizon: Steps of the robot after which an episode ends; settling does not count.
        control_hz: How many steps are one second; it is compared with the robot's.
        distractor: Where a sentence about another thing in sight is read from, to be tried as a wrong instruction.
        seed: How it is seeded, where `reset(seed=...)` does not do it (`SeedCall`).
        starts: Stored states in which episodes begin (`StoredStarts`).
        settle: Steps until things have come to rest (`Settle`).

    Raises:
        ValueError: a key is missing; or what is named is not there, and then what is there is named beside it.
    """
    if horizon < 1 or control_hz <= 0:
        raise ValueError(f"horizon={horizon}, control_hz={control_hz}: an episode has steps, and a second too.")
    with naming("tasks"):
        more = tasks(task)
    parts = Parts(
        cameras=cameras,
        state=state,
        action=action,
        instruction=instruction,
        success=success,
        distractor=distractor,
        seed=seed,
        starts=starts,
        settle=settle,
    )
    env = environment(**more)
    try:
        return TimeLimit(Translated(env, parts, task=task, control_hz=control_hz), horizon)
    except BaseException:
        env.close()
        raise
