"""Candidates on the starts that all of them met, from what evaluations kept; what differs beside who played is refused by name."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from vla_tune.evaluation.episodes import EpisodeRecord
from vla_tune.evaluation.kept import Evaluation, Wanted, evaluations_of
from vla_tune.schema import content_hash

_STATES = ("seed", "episodes", "suite", "task")
"""Conditions that say which starts were met: without them there are no pairs, whatever is accepted."""
_LONGEST = 60

World = tuple[str, str, str]
Kept = Mapping[str, Evaluation]
"""Hash of the conditions -> the evaluation under them, of one run."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is compared: a policy, or a method with a run for each training seed."""

    name: str
    runs: Sequence[Path]
    """Folders in which `scripts/eval.py` keeps its episodes."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """A candidate on the starts that are compared."""

    candidate: Candidate
    success: Bool[np.ndarray, "runs starts"]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Candidates on the same starts."""

    played: Sequence[Played]
    tasks: Shaped[np.ndarray, " starts"]
    """What a start is called in a table: its task, and the environment where a task was played in several."""
    shared: bool
    """Whether all runs of a candidate met the same starts, or each its own, as the run of the same place of every other did."""
    conditions: Sequence[Mapping[str, Any]]
    """What was played, once for each task and seed."""
    notes: Sequence[str] = field(default=())
    """What a reader of the result must know: what was left out, and what was taken as equal."""


def pair(candidates: Sequence[Candidate], *, wanted: Wanted = Wanted(), accept: Sequence[str] = ()) -> Paired:  # noqa: B008
    """Pair what the candidates' runs played by its starts.

    Args:
        candidates: At least two, no run in two of them.
        wanted: Which evaluations.
        accept: Conditions, by dotted name or its beginning, that may differ, which the notes then say: `code.ours`, `code`.

    Raises:
        ValueError: a run is named twice or keeps no evaluation, or the runs met other starts, rules or environments.
    """
    runs = _check(candidates, accept)
    kept = {run: _by_conditions(run, evaluations_of(run, wanted), accept) for run in runs}
    common = set.intersection(*(set(of) for of in kept.values()))
    shared = bool(common)
    if not shared:
        common = set.intersection(*({key for run in one.runs for key in kept[run]} for one in candidates))
        _check_blocks(candidates, kept, common)
    world = partial(_world, accept=accept)
    taken = {
        run: [of[key] for key in sorted(of.keys() & common, key=lambda key: _order(of[key], world(of[key]), key))]
        for run, of in kept.items()
    }
    worlds = {run: [(world(one), len(one.records)) for one in of] for run, of in taken.items()}
    if other := next((run for run in runs if worlds[run] != worlds[runs[0]]), None):
        raise ValueError(f"{runs[0]} and {other} played unequally much: evaluate both on the same tasks, with as many episodes.")
    _check_starts(candidates, taken, world, shared=shared)
    first = taken[runs[0]]
    labels = _labels(first)
    return Paired(
        played=[Played(candidate=one, success=np.array([_success(taken[run]) for run in one.runs])) for one in candidates],
        tasks=np.array([label for one, label in zip(first, labels, strict=True) for _ in one.records]),
        shared=shared,
        conditions=[one.conditions for run in (runs[:1] if shared else candidates[0].runs) for one in taken[run]],
        notes=[*_left_out(kept, common), *_taken_as_equal(candidates, taken, accept), *_executions(candidates, taken)],
    )


def _check(candidates: Sequence[Candidate], accept: Sequence[str]) -> list[Path]:
    runs = [run for one in candidates for run in one.runs]
    if len(candidates) < 2:
        raise ValueError("a comparison is between two or more: runs=[runs/one,runs/other].")
    places = [run.resolve() for run in runs]
    if twice := [run for run, place in zip(runs, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"{twice[0]} is named twice: each run once; a run is as good as itself.")
    if states := [name for name in accept if name.partition(".")[0] in _STATES]:
        raise ValueError(f"accept={states[0]}: without the same {', '.join(_STATES)} there are no pairs; evaluate again.")
    return runs


def _by_conditions(run: Path, evaluations: Sequence[Evaluation], accept: Sequence[str]) -> dict[str, Evaluation]:
    found: dict[str, Evaluation] = {}
    for one in evaluations:
        key = content_hash({name: value for name, value in one.conditions.items() if not _accepted(name, accept)})
        if (other := found.get(key)) is not None:
            names = ", ".join(_differences(other.player | other.conditions, one.player | one.conditions))
            raise ValueError(
                f"{run} keeps two evaluations of {one.task} from the same starts, which differ in {names or 'nothing'}: choose "
                f"with only.execution=..., or move one of {other.path.name} and {one.path.name} away."
            )
        found[key] = one
    return found


def _check_blocks(candidates: Sequence[Candidate], kept: Mapping[Path, Kept], common: set[str]) -> None:
    """Runs with starts of their own: the n-th of each candidate met those of the n-th of every other, and no other run did."""
    first = candidates[0]
    blocks = [kept[run].keys() & common for run in first.runs]
    apart = sum(len(block) for block in blocks) == len(set().union(*blocks))
    for one in candidates:
        for run, beside, block in zip(one.runs, first.runs, blocks, strict=False):
            if not block or kept[run].keys() & common != block:
                raise ValueError(_unlike(kept, beside, run) if run != beside else _unlike(kept, run, candidates[1].runs[0]))
        if len(one.runs) != len(first.runs) or not apart:
            raise ValueError(
                f"the runs of {first.name} and {one.name} met partly the same starts: evaluate all with one evaluation.seed, or "
                "each training seed of every candidate with one of its own, and name them in the same order."
            )


def _check_starts(
    candidates: Sequence[Candidate],
    taken: Mapping[Path, Sequence[Evaluation]],
    world: Callable[[Evaluation], World],
    *,
    shared: bool,
) -> None:
    """No start counts twice, and what stands side by side is one start, also where conditions were accepted."""
    for run, evaluations in taken.items():
        for number, one in enumerate(evaluations):
            if twice := [of for of in evaluations[:number] if world(of) == world(one) and set(_starts([of])) & set(_starts([one]))]:
                names = ", ".join(_differences(twice[0].conditions, one.conditions))
                raise ValueError(
                    f"{run} met the same starts of {one.task} twice, under conditions that differ in {names}: move one of "
                    f"{twice[0].path.name} and {one.path.name} away, and likewise of the others."
                )
    for candidate in candidates:
        for place, run in enumerate(candidate.runs):
            beside = candidates[0].runs[0 if shared else place]
            if _starts(taken[run]) != _starts(taken[beside]):
                raise ValueError(
                    f"{beside} and {run} began from other states, though both say one seed: evaluate one of them again."
                )


def _starts(evaluations: Sequence[Evaluation]) -> list[tuple[str, str, int, int]]:
    return [record.key for one in evaluations for record in one.records]


def _unlike(kept: Mapping[Path, Kept], one: Path, other: Path) -> str:
    """What differs between the evaluations of two runs that are most alike."""
    couples = [(a, b) for a in kept[one].values() for b in kept[other].values() if a.task == b.task]
    if not couples:
        names = [", ".join(sorted({of.task for of in kept[run].values()})) for run in (one, other)]
        return f"{one} and {other} did not play the same: {one} played {names[0]}, {other} {names[1]}. Evaluate both on one task."
    a, b = min(couples, key=lambda couple: len(_differences(couple[0].conditions, couple[1].conditions)))
    names = _differences(a.conditions, b.conditions)
    told = "; ".join(f"{name} is {_short(a.conditions.get(name))} and {_short(b.conditions.get(name))}" for name in names)
    remedy = "Evaluate both with the same env, task and evaluation.*, with one version of the code"
    free = sorted({name for name in names if name.partition(".")[0] not in _STATES})
    if len(free) == len(names):
        remedy += f", or take this as equal, which the result will say: 'accept=[{','.join(free)}]'"
    return f"{one} and {other} did not play {a.task} under the same conditions: {told}. {remedy}."


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]


def _accepted(name: str, accept: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in accept)


def _world(one: Evaluation, accept: Sequence[str]) -> World:
    """Suite, task and environment, without that where another one is accepted."""
    suite, task, environment = one.world
    return suite, task, "" if _accepted("environment", accept) else environment


def _order(one: Evaluation, world: World, key: str) -> tuple[Any, ...]:
    """The same in every run that met the same conditions, which have the same key."""
    return (*world, one.about.get("seed") or 0, key)


def _success(evaluations: Sequence[Evaluation]) -> list[bool]:
    records: list[EpisodeRecord] = [record for one in evaluations for record in one.records]
    return [record.success for record in records]


def _labels(evaluations: Sequence[Evaluation]) -> list[str]:
    """The task; with the suite, or the environment, where it was played in several."""
    worlds = list(dict.fromkeys(one.world for one in evaluations))
    names = {}
    for world in worlds:
        same = [other for other in worlds if other[1] == world[1]]
        suites = len({suite for suite, _, _ in same}) == len(same)
        names[world] = world[1] if len(same) == 1 else f"{world[1]}, {world[0] if suites else _words(world[2])}"
    return [names[one.world] for one in evaluations]


def _words(environment: str) -> str:
    """What is built, and of what: `{'_target_': 'envs.lit', '_partial_': True, 'gain': 2}` -> `envs.lit, gain: 2`."""
    return re.sub(r"[{}']|_target_: |_partial_: True(, )?", "", re.sub("'", "", environment))


def _left_out(kept: Mapping[Path, Kept], common: set[str]) -> Iterator[str]:
    tasks = sorted({(one.task, run.name) for run, of in kept.items() for key, one in of.items() if key not in common})
    if tasks:
        told = ", ".join(f"{task} of {run}" for task, run in tasks[:6]) + (", ..." if len(tasks) > 6 else "")
        yield f"Left out, as not all played it under the same conditions: {told}."


def _taken_as_equal(
    candidates: Sequence[Candidate], taken: Mapping[Path, Sequence[Evaluation]], accept: Sequence[str]
) -> Iterator[str]:
    sides = [taken[run] for one in candidates for run in one.runs]
    for name in sorted({name for side in sides for one in side for name in one.conditions if _accepted(name, accept)}):
        values = list(dict.fromkeys(_short(one.conditions.get(name)) for side in sides for one in side))
        if len(values) > 1:
            yield f"Taken as equal, and is not: {name} ({', '.join(values)})."


def _executions(candidates: Sequence[Candidate], taken: Mapping[Path, Sequence[Evaluation]]) -> Iterator[str]:
    """Candidates may execute their chunks in ways of their own; that is said."""
    ways = {
        one.name: ", ".join(
            dict.fromkeys(
                " ".join(str(value) for name, value in of.player.items() if name.startswith("execution"))
                for run in one.runs
                for of in taken[run]
            )
        )
        for one in candidates
    }
    if len(set(ways.values())) > 1:
        yield f"They execute their chunks in other ways: {'; '.join(f'{name}: {way}' for name, way in ways.items())}."


def _short(value: Any) -> str:
    text = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", r"\1", str(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
