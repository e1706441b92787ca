"""Expert demonstrations of several tasks of any environment, shared out to processes, which go on where they were stopped."""

import errno
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any

import gymnasium

from vla_tune.data.starts import Start, write_starts
from vla_tune.record.crew import ATTEMPTS, Wanted, Work, in_processes, in_this_process
from vla_tune.record.episode import Done, Expert
from vla_tune.record.folder import Code, is_recorded, was_recorded_by, written_once
from vla_tune.record.noise import Disturbing
from vla_tune.record.progress import shares, shown
from vla_tune.record.shards import Shard, shelf_beside
from vla_tune.record.writer import Storage, write_encoded
from vla_tune.schema import Embodiment, read_object, to_record
from vla_tune.translation.words import in_words, in_words_without_attributes

_log = logging.getLogger(__name__)
ATTEMPTS_FILE = "attempts.json"
"""In the dataset's folder: how many attempts each task took."""
_EPISODES_ALONE = ("tasks", "episodes", "storage")
"""What of a recipe says which episodes there are, and how they are stored, but nothing about one of them."""


def record_tasks(
    folder: Path,
    *,
    make: Callable[..., gymnasium.Env],
    expert: Expert,
    embodiment: Embodiment,
    tasks: Sequence[str],
    episodes: int,
    seed: int,
    noise: Disturbing,
    storage: Storage,
    workers: int,
) -> Path:
    """Record successful expert episodes of each task, the tasks in turn, up to and with the step that succeeds.

    An episode follows from seed, task, its number and the attempt, so that any number of workers records the same. Finished
    episodes are kept beside the folder until all are there: a recording that was killed goes on with the rest, as does one for
    more tasks or episodes. A folder that the same call recorded before is left as it is.

    Args:
        folder: Of the dataset.
        make: Makes the environment of a `task`, with its limit of steps (`vla_tune.environment` says what it shows and tells).
        expert: Asked once per step.
        embodiment: What is recorded, and under which names.
        tasks: What `make` is asked for.
        episodes: How many of each task, failures not counted.
        seed: Of starts and noise.
        noise: On what is executed.
        storage: Of the pictures.
        workers: Processes, each with one environment at a time; 1 is this process.

    Raises:
        ValueError: the folder holds something else; the environment does not fit the robot; or the expert fails too often.
        OSError: the disk is full.
        ChildProcessError: a worker ended by itself.
    """
    _check(tasks, episodes, workers)
    recipe = {
        "kind": "demonstrations of tasks",
        **_said(make, expert, noise, in_words),
        "embodiment": to_record(embodiment),
        "tasks": list(tasks),
        "episodes": episodes,
        "seed": seed,
        "storage": asdict(storage),
    }
    recipe = _of_before(folder, recipe, recipe | _said(make, expert, noise, in_words_without_attributes))
    code = Code.behind(environment=make, expert=expert)
    if is_recorded(folder, recipe, code):
        return folder
    with shelf_beside(folder, _key(recipe, code)) as shelf:
        if is_recorded(folder, recipe, code):  # by another process, meanwhile
            return folder
        work = Work(make, expert, embodiment, seed, noise, shelf)
        _record(work, tasks, episodes, workers)
        return written_once(folder, recipe, lambda root: _write(root, work, tasks, episodes, storage), code)


def _of_before(folder: Path, recipe: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The recipe by which the folder is found: that of before, where it was recorded before attributes were told."""
    if before == recipe or not was_recorded_by(folder, before):
        return recipe
    _log.warning("%s was recorded when attributes of objects without a repr were not noted: it may be of other ones.", folder)
    return before


def _check(tasks: Sequence[str], episodes: int, workers: int) -> None:
    if episodes < 1 or workers < 1:
        raise ValueError(f"episodes={episodes}, workers={workers}: record at least 1 of each task, by at least 1 process.")
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"tasks={list(tasks)}: name at least one, and each once.")


def _said(make: Callable[..., gymnasium.Env], expert: Expert, noise: Disturbing, words: Callable[[Any], str]) -> dict[str, str]:
    """The words by which a folder is found again: of an environment that may have stored starts, that none of them is used."""
    drawn = partial(make, starts=None) if "starts" in signature(make).parameters else make
    return {"environment": words(drawn), "expert": words(expert), "noise": words(noise)}


def _key(recipe: dict[str, Any], code: Code) -> str:
    """What an episode depends on: of another expert's code, none is gone on with."""
    alike = {name: value for name, value in recipe.items() if name not in _EPISODES_ALONE}
    return sha256(json.dumps([alike, dict(code.sources)], sort_keys=True).encode()).hexdigest()[:12]


def _record(work: Work, tasks: Sequence[str], episodes: int, workers: int) -> None:
    """What is not there yet.

    Raises:
        ValueError: the expert was given up on some tasks; the others are recorded before that is told.
    """
    wanted = {task: [number for number in range(episodes) if not work.shelf.has(task, number, work.body)] for task in tasks}
    count, total = sum(map(len, wanted.values())), episodes * len(tasks)
    hopeless: dict[str, Done] = {}
    try:
        for done in shown(_played(work, wanted, min(workers, count)), total=total, there=total - count):
            if not done.kept:
                hopeless[done.task] = done
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        text = f"the disk of {work.shelf.folder.parent} is full: free some space and start again; what is finished is kept"
        raise OSError(errno.ENOSPC, text) from None
    if hopeless:
        named = ", ".join(f"{task} (episode {done.episode})" for task, done in sorted(hopeless.items()))
        raise ValueError(
            f"the expert failed {ATTEMPTS} times on the same start's number of task {named}: leave the task out, reduce the noise "
            f"({work.noise}), or mend the expert. The other tasks' episodes are kept."
        )


def _played(work: Work, wanted: Wanted, workers: int) -> Iterator[Done]:
    return in_this_process(work, wanted) if workers <= 1 else in_processes(work, wanted, workers=workers)


def _write(root: Path, work: Work, tasks: Sequence[str], episodes: int, storage: Storage) -> None:
    starts, failed = list[Start](), dict.fromkeys(tasks, 0)

    def shards() -> Iterator[Shard]:
        for number in range(episodes):
            for task in tasks:
                shard = work.shelf.get(task, number, work.body)
                starts.append(shard.start)
                failed[task] += shard.failed
                yield shard

    write_encoded(root, shards(), embodiment=work.body, storage=storage)
    write_starts(root, starts)
    attempts = {task: {"kept": episodes, "attempts": episodes + failed[task]} for task in tasks}
    (root / ATTEMPTS_FILE).write_text(json.dumps(attempts, indent=1) + "\n")


def kept_in(folder: Path) -> str | None:
    """Kept of tried attempts by task, in words; None where the folder does not say.

    Raises:
        ValueError: the file that says it is damaged.
    """
    path = folder / ATTEMPTS_FILE
    if not path.is_file():
        return None
    try:
        known = {str(task): (int(one["kept"]), int(one["attempts"])) for task, one in read_object(path).items()}
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: delete it, it is only told; or record anew elsewhere.") from None
    return shares({task: kept for task, (kept, _) in known.items()}, {task: tried for task, (_, tried) in known.items()})
