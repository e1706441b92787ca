"""Which candidate is better, by how much, and of which that cannot be said: every pair of them, as JSON data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from vla_tune.evaluation.paired import Paired, Played
from vla_tune.evaluation.significance import cochran_mantel_haenszel, holm
from vla_tune.evaluation.stats import pairs_of
from vla_tune.evaluation.training_seeds import difference_over_runs, interval_over_runs

SIGNIFICANT = 0.05
"""A p value below it tells two apart: 1 less the level of the intervals."""

Record = dict[str, Any]


def compare_all(paired: Paired, *, margin: float | None = None) -> Record:
    """What a comparison found; rates and differences are fractions, a difference is the first's rate less the second's.

    `candidates`: each with its rate and 95 % interval, the p value against the best (Holm, for all pairs together) and whether it
    can be told from the best. `pairs`: each with the difference, its 95 % interval and p value, over all tasks and for each; of two
    single runs Newcombe's interval and McNemar's exact test, and Cochran's, Mantel's and Haenszel's over several tasks; of training
    seeds an interval over runs. `non_inferiority`: whether the first is not worse than each other by more than the margin.

    Args:
        paired: Candidates on the same starts.
        margin: A fraction; None asks nothing of the kind.

    Raises:
        ValueError: the margin is no fraction.
    """
    if margin is not None and not 0 < margin < 1:
        raise ValueError(f"margin={margin}: a fraction above 0 and below 1, 0.03 for three points.")
    pairs = [_pair(one, other, paired) for one, other in combinations(paired.played, 2)]
    for row, p_value in zip(pairs, holm([row["p_value"] for row in pairs]), strict=True):
        row["p_holm"] = p_value
    candidates = [_candidate(one, paired) for one in paired.played]
    best = max(candidates, key=lambda row: row["success_rate"])["name"]
    for row in candidates:
        met = next((of for of in pairs if {of["first"], of["second"]} == {row["name"], best}), None)
        row["p_against_best"] = None if met is None else met["p_holm"]
        row["told_from_best"] = met is not None and met["p_holm"] < SIGNIFICANT
    return {
        "candidates": candidates,
        "best": best,
        "not_told_from_best": [row["name"] for row in candidates if not row["told_from_best"]],
        "pairs": pairs,
        "non_inferiority": None if margin is None else [_not_worse(row, margin) for row in pairs[: len(candidates) - 1]],
        "starts": len(paired.tasks),
        "shared_starts": paired.shared,
        "conditions": [dict(one) for one in paired.conditions],
        "notes": list(paired.notes),
    }


def _candidate(one: Played, paired: Paired) -> Record:
    low, high = interval_over_runs(one.success, paired.tasks, shared=paired.shared)
    return {
        "name": one.candidate.name,
        "runs": [str(run) for run in one.candidate.runs],
        "episodes": int(one.success.size),
        "successes": int(one.success.sum()),
        "success_rate": float(one.success.mean()),
        "low": low,
        "high": high,
        "success_by_run": [float(rate) for rate in one.success.mean(1)],
    }


def _pair(first: Played, second: Played, paired: Paired) -> Record:
    """Over all tasks, and where there are several, for each."""
    names = [str(task) for task in dict.fromkeys(paired.tasks.tolist())]
    columns = {name: paired.tasks == name for name in names}
    whole = _measured(first.success, second.success, paired.tasks, shared=paired.shared)
    tasks = [
        {"task": name} | _measured(first.success[:, of], second.success[:, of], paired.tasks[of], shared=paired.shared)
        for name, of in columns.items()
    ]
    over = None
    if len(names) > 1 and len(first.success) == len(second.success) == 1:
        over = asdict(cochran_mantel_haenszel([pairs_of(first.success[:, of], second.success[:, of]) for of in columns.values()]))
    names = {"first": first.candidate.name, "second": second.candidate.name}
    return names | whole | {"cochran_mantel_haenszel": over, "tasks": tasks}


def _measured(first: np.ndarray, second: np.ndarray, tasks: np.ndarray, *, shared: bool) -> Record:
    counts: Record = {"first_rate": float(first.mean()), "second_rate": float(second.mean())}
    if len(first) == len(second) == 1:
        pairs = pairs_of(first, second)
        low, high = pairs.interval()
        counts |= {"difference": pairs.difference, "low": low, "high": high, "p_value": pairs.p_value, "method": "pairs"}
        return counts | {"pairs": asdict(pairs)}
    found = difference_over_runs(first, second, tasks, shared=shared)
    counts |= {"difference": found.value, "low": found.low, "high": found.high, "p_value": found.p_value}
    return counts | {"method": "training seeds", "pairs": None}


def _not_worse(row: Mapping[str, Any], margin: float) -> Record:
    """The lower bound of a two-sided 95 % interval is wrong in 2.5 % at most."""
    return {"first": row["first"], "second": row["second"], "margin": margin, "low": row["low"], "shown": row["low"] > -margin}


def against_best(found: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The pairs of the best and each other."""
    return [row for row in found["pairs"] if found["best"] in (row["first"], row["second"])]
