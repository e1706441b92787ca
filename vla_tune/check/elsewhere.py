"""A policy that was trained elsewhere, on frames of a robot here: there is nothing but these to hold it against."""

import numpy as np

from vla_tune.check.agreement import Agreement, Recorded, agreement
from vla_tune.check.finding import Finding
from vla_tune.check.probes import Case, acts_in_numbers, keeps_up, reactions, stays_in_range
from vla_tune.extents import Extents
from vla_tune.schema import Contract, Policy

_AS_FAR = (0.5, 2.0)
"""How far the moving dimensions go, of the recorded; another unit is a factor of ten or more."""


def examine_elsewhere(policy: Policy, contract: Contract, recorded: Recorded) -> list[Finding]:
    """Whether it acts on these frames as was recorded, in the units, with the gripper's ends and at the rate that are assumed."""
    known = {"contract": contract, "recorded": recorded, "statistics": contract.statistics, "trained": contract, "base": None}
    case, found = Case(policy=policy, reference=policy, **known), agreement(policy, recorded, contract)
    first = acts_in_numbers(found, found)
    if not first.passed:
        return [first]
    judged = [first, _near(found, recorded, contract), _same_ends(found), _as_far(found)]
    return [*judged, *reactions(case), stays_in_range(found, found), keeps_up(case)]


def _near(found: Agreement, recorded: Recorded, contract: Contract) -> Finding:
    """Nearer to what was recorded than their mean is, which needs no policy."""
    mean = recorded.actions[recorded.mask].mean(axis=0)
    idle = float((np.abs(recorded.actions[recorded.mask] - mean) / Extents.of(contract).span).mean())
    said = f"mean error {found.error:.4f} of an action's range; their mean action alone has {idle:.4f}"
    otherwise = "this robot, scene or task is another than in its training. Fine-tune it."
    return Finding.of("recorded actions", found.error <= idle, said, otherwise=otherwise)


def _same_ends(found: Agreement) -> Finding:
    if found.gripper is None:
        return Finding("gripper", True, "it never changes in these frames")
    said = f"correlation with the recorded {found.gripper:+.2f}"
    otherwise = "its ends may be exchanged. Look at `gripper` in the embodiment."
    return Finding.of("gripper", found.gripper >= 0, said, otherwise=otherwise)


def _as_far(found: Agreement) -> Finding:
    if found.scale is None:
        return Finding("scale", True, "nothing moves in these frames")
    said = f"motions are {found.scale:.2g} times the recorded ones"
    as_far = _AS_FAR[0] <= found.scale <= _AS_FAR[1]
    return Finding.of("scale", as_far, said, otherwise="look at unnorm_key and at the units of the embodiment.")
