"""Why a policy fails: each probe asks one question of the policy as it is deployed, on recorded frames."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_tune.check.agreement import Agreement, Recorded, agreement, apart
from vla_tune.check.finding import Finding
from vla_tune.check.suspects import SUSPECTS, Mended
from vla_tune.schema import ColumnStatistics, Contract, Observation, Policy, Statistics

_WORSE = 1.5
"""Times the reference's error, beyond which a policy does not do what was trained."""
_NOISE = 0.01
"""Of an action's range: a difference of errors that says nothing."""
ANOTHER_FUNCTION = 0.02
"""Mean difference, of an action's range: more than other hardware or merged weights make, less than any fault that is known."""
_CHUNK_SETTINGS: dict[str, Callable[[Contract], float]] = {
    "horizon": lambda contract: contract.horizon,
    "execute_steps": lambda contract: contract.execute_steps,
    "control_hz": lambda contract: contract.embodiment.control_hz,
    "the number of action dimensions": lambda contract: contract.embodiment.action_dimension,
}
_OTHER_SIDE = 0.05
"""Share of a gripper's values that other hardware or merged weights may put on the other side."""
_TWICE = (1.6, 2.5)
"""How far the moving dimensions go, of the recorded, when a delta is applied twice."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is examined, and what it is held against."""

    policy: Policy
    """As deployed: read back from its folder, or behind its server."""
    contract: Contract
    """Its own."""
    recorded: Recorded
    """Frames of the data that the run learned from."""
    statistics: Statistics
    """Of that data, computed now."""
    reference: Policy
    """The trained policy, as training left it."""
    trained: Contract
    """Its contract."""
    base: Agreement | None
    """What the policy that training began with does on these frames; None where the reference is no fine-tuned policy."""


def examine(case: Case) -> list[Finding]:
    """All probes, in the order in which a mistake is best looked for; if chunks have another shape, only what can be said then."""
    first = [statistics_fit(case), chunks_are_as_trained(case), means_as_trained(case)]
    if _shape(case.contract) != _shape(case.trained):
        return first
    found = agreement(case.policy, case.recorded, case.contract)
    wanted = found if case.reference is case.policy else agreement(case.reference, case.recorded, case.contract)
    first.append(acts_in_numbers(found, wanted))
    if not first[-1].passed:
        return first
    return [
        *first,
        adapter_acts(case.base, found, wanted),
        acts_as_trained(case, found, wanted),
        gripper_agrees(found, wanted),
        moves_as_far(found, wanted),
        frames_lead_to_actions(case, found, wanted),
        *reactions(case),
        stays_in_range(found, wanted),
        keeps_up(case),
    ]


def statistics_fit(case: Case) -> Finding:
    """The contract's statistics are those of the data."""
    for name in ("action", "state"):
        given: ColumnStatistics = getattr(case.contract.statistics, name)
        known: ColumnStatistics = getattr(case.statistics, name)
        span = np.array(known.max) - np.array(known.min)
        if given.normalization != known.normalization:
            said = f"wrong statistics: {name} is scaled by {given.normalization}, the data's by {known.normalization}"
            return Finding("statistics", False, f"{said}. Take the contract.json of the training run.")
        for field in known.numbers:
            one, other = np.array(given.numbers[field]), np.array(known.numbers[field])
            if one.shape != other.shape or not (np.abs(one - other) <= 1e-3 * np.maximum(span, 1e-9)).all():
                said = f"wrong statistics: {name}.{field} is {_short(one)}, the data says {_short(other)}"
                return Finding("statistics", False, f"{said}. Take the contract.json of the training run.")
    return Finding("statistics", True, "those of the data")


def adapter_acts(base: Agreement | None, found: Agreement, wanted: Agreement) -> Finding:
    """What was learned is in the policy, and is better than nothing."""
    if base is None:
        return Finding("adapter", True, "there is none")
    said, live, without = found.chunks, wanted.chunks, base.chunks
    if np.array_equal(without, live):
        return Finding("adapter", False, "the trained policy acts as its base does: nothing was learned. Train it.")
    to_base, to_live = np.abs(said - without).mean(), np.abs(said - live).mean()
    if to_base < 0.1 * np.abs(live - without).mean() and to_base < to_live:
        return Finding("adapter", False, "the policy acts as its base does: the adapter was not merged. Run scripts/export.py.")
    errors = f"mean error {wanted.error:.4f} of an action's range when trained, {base.error:.4f} without what was learned"
    if wanted.error > base.error + _NOISE:
        return Finding("adapter", False, f"{errors}: training made it worse. Look at the learning rate and the data.")
    return Finding("adapter", True, f"{100 * (said == live).mean():.1f} % of the values are those of the live policy; {errors}")


def chunks_are_as_trained(case: Case) -> Finding:
    """Chunks have the length, are played as far and as fast as in training."""
    for name, of in _CHUNK_SETTINGS.items():
        here, there = of(case.contract), of(case.trained)
        if here != there:
            return Finding("chunk settings", False, f"{name} is {here}, in training it was {there}. Take its contract.json.")
    contract = case.contract
    said = f"{contract.execute_steps} of {contract.horizon} actions are played at {contract.embodiment.control_hz:g} Hz"
    return Finding("chunk settings", True, said)


def means_as_trained(case: Case) -> Finding:
    """The contract says of robot, model and numbers what the trained one says: an edited one moves the robot in another way."""
    if other := case.contract.differences(case.trained):
        return Finding("contract", False, f"not that of training: {'; '.join(other[:5])}. Take its contract.json.")
    return Finding("contract", True, "that of training")


def acts_in_numbers(found: Agreement, wanted: Agreement) -> Finding:
    """No action is NaN or infinite: of such a policy nothing else can be said."""
    for name, one in {"the policy": found, "the trained policy": wanted}.items():
        if not one.finite:
            frame = int(np.argwhere(~np.isfinite(one.chunks))[0, 0])
            return Finding("numbers", False, f"{name} gives NaN or infinity (recorded frame {frame}): its weights are damaged.")
    return Finding("numbers", True, "all actions are finite")


def acts_as_trained(case: Case, found: Agreement, wanted: Agreement) -> Finding:
    """Merged, read back or served, it is the function that training left."""
    if case.policy is case.reference:
        return Finding("live policy", True, "this is it")
    off = apart(found.chunks, wanted.chunks, case.contract)
    said = f"{100 * off:.2g} % of an action's range beside the trained policy on the same frames"
    return Finding.of("live policy", off <= ANOTHER_FUNCTION, said, otherwise="another function.")


def gripper_agrees(found: Agreement, wanted: Agreement) -> Finding:
    """Grippers close when they closed in the data."""
    if found.side is None or wanted.side is None:
        return Finding("gripper", True, "there is none")
    said = f"{100 * found.side:.0f} % of the values on the recorded side, trained {100 * wanted.side:.0f} %"
    if found.gripper is None or wanted.gripper is None:
        said, fine = f"{said}; it never moves in the data", found.side >= wanted.side - _OTHER_SIDE
        return Finding.of("gripper", fine, said, otherwise="flipped gripper.")
    said = f"correlation with the data {found.gripper:+.2f}, trained {wanted.gripper:+.2f}; {said}"
    if found.gripper < -0.2 and not wanted.gripper < -0.2:
        return Finding("gripper", False, f"flipped gripper: {said}. Swap engaged and released on one side.")
    if wanted.gripper > 0.2 and not found.gripper > 0.2 * wanted.gripper:
        return Finding("gripper", False, f"it does not follow the data as it did: {said}.")
    return Finding("gripper", True, said)


def moves_as_far(found: Agreement, wanted: Agreement) -> Finding:
    """Motions have the size of the recorded ones."""
    if found.scale is None or wanted.scale is None:
        return Finding("scale", True, "nothing moves in the data but grippers")
    ratio = found.scale / wanted.scale if wanted.scale else float("inf") if found.scale else 1.0
    said = f"motions are {found.scale:.2f} times the recorded ones, trained {wanted.scale:.2f}"
    if _TWICE[0] <= ratio <= _TWICE[1]:
        return Finding("scale", False, f"a delta is applied twice: {said}. Add it to the set-point on one side only.")
    return Finding.of("scale", 1 / _TWICE[0] <= ratio <= _TWICE[1], said, otherwise="look at units and statistics.")


def frames_lead_to_actions(case: Case, found: Agreement, wanted: Agreement) -> Finding:
    """Training frames through the deployed path lead to the recorded actions as well as they did in training; if not, why."""
    said = f"mean error {found.error:.4f} of an action's range, trained {wanted.error:.4f}"
    if found.error <= _WORSE * wanted.error + _NOISE:
        return Finding("training frames", True, said)
    errors = {
        reason: agreement(Mended(case.policy, change), case.recorded, case.contract).error for reason, change in SUSPECTS.items()
    }
    reason = min(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    if found.error - errors[reason] > 0.5 * (found.error - wanted.error):
        return Finding("training frames", False, f"{reason} ({said}; {errors[reason]:.4f} with that undone).")
    return Finding(
        "training frames", False, f"{said}: the deployed path differs from training, but not in a way that is known here."
    )


def reactions(case: Case) -> list[Finding]:
    """Images, instruction and proprioception, where there is one, each change what is done."""
    frames = case.recorded.seen[:8]
    body = case.contract.embodiment
    changes: dict[str, Callable[[Observation], Observation]] = {
        "image": lambda one: replace(one, images={role: 255 - image for role, image in one.images.items()}),
        "instruction": lambda one: replace(one, instruction=f"do not {one.instruction} but wait"),
        "proprioception": lambda one: replace(one, state=_far(one.state, case.contract)),
    }
    assert body.state_dimension == len(case.contract.statistics.state.min)
    if not body.state:
        del changes["proprioception"]
    return [_reaction(name, change, case, frames) for name, change in changes.items()]


def _reaction(name: str, change: Callable[[Observation], Observation], case: Case, frames: Sequence[Observation]) -> Finding:
    """Words may be all alike and the state superfluous, but no policy may be blind."""
    reacts, finite = _reacts(case.policy, change, frames)
    expected, _ = _reacts(case.reference, change, frames)
    if not finite:
        return Finding(name, False, "leads to NaN or infinity when it is changed: the weights are damaged.")
    said = "changes what is done" if reacts else "changes nothing" + ("" if expected else ", nor did it in training")
    return Finding(name, reacts or (not expected and name != "image"), said)


def _reacts(policy: Policy, change: Callable[[Observation], Observation], frames: Sequence[Observation]) -> tuple[bool, bool]:
    """Whether the policy acts otherwise on changed frames, and in numbers."""
    plain = np.stack([policy.act([one])[0] for one in frames])
    other = np.stack([policy.act([change(one)])[0] for one in frames])
    return not np.array_equal(plain, other), bool(np.isfinite(other).all())


def stays_in_range(found: Agreement, wanted: Agreement) -> Finding:
    """Actions lie in the range of the data, and the first one is no jump."""
    said = f"{100 * found.outside:.1f} % of the values outside the data's range"
    said += "" if found.jump is None else f", first step {found.jump:.2f} of the largest recorded"
    return Finding("range", found.outside <= wanted.outside + 0.05 and (found.jump is None or found.jump <= 1.5), said)


def keeps_up(case: Case, *, times: int = 5) -> Finding:
    """A chunk is there before the last one is played."""
    contract = case.contract
    begun = time.perf_counter()
    for index in range(times):
        case.policy.act([case.recorded.seen[index % len(case.recorded.seen)]])
    seconds, played = (time.perf_counter() - begun) / times, contract.execute_steps / contract.embodiment.control_hz
    said = f"{1000 * seconds:.0f} ms for a chunk that is played for {1000 * played:.0f} ms"
    otherwise = "play more of a chunk, or make the policy faster (merge it, use a GPU)."
    return Finding.of("control rate", seconds <= played, said, otherwise=otherwise)


def _shape(contract: Contract) -> tuple[int, int]:
    return contract.horizon, contract.embodiment.action_dimension


def _far(state: np.ndarray, contract: Contract) -> np.ndarray:
    """The other side of the range."""
    column = contract.statistics.state
    low, high = np.array(column.min, np.float32), np.array(column.max, np.float32)
    return (low + high - state).astype(np.float32) + 0.1 * (high - low)


def _short(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values.tolist()) + "]"
