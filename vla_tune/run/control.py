"""A policy on a robot, as a configuration describes both."""

import traceback
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from vla_tune.control.emergency import AnyOf, StopFile, StopKey, StopSignal
from vla_tune.control.log import All, InMemory, JsonLines
from vla_tune.control.loop import Controller
from vla_tune.control.parts import Parts
from vla_tune.control.plot import plot_ticks
from vla_tune.control.robot import Robot, RobotError
from vla_tune.control.robot_policy import Instructed, in_robot_units
from vla_tune.control.safety import ActionRange, Safety
from vla_tune.control.setpoints import SetPoints, measured_by
from vla_tune.control.simulated import SimulatedRobot, spoilt
from vla_tune.control.state import Counts, State
from vla_tune.evaluation.episodes import episode_seed
from vla_tune.evaluation.stats import wilson_interval
from vla_tune.execution import under_contract
from vla_tune.extents import Extents
from vla_tune.printing import say
from vla_tune.run.acting import acting, is_address
from vla_tune.run.check import require, tell
from vla_tune.run.chosen import chosen_run
from vla_tune.run.films import FILMS, Films
from vla_tune.run.folder import RESULTS_FILE
from vla_tune.run.objects import build
from vla_tune.run.proof import proof
from vla_tune.run.tasks import only_task
from vla_tune.schema import Contract, Policy, write_json

TICKS_FILE, PLOT_FILE, FAILURE_FILE, DATASET = "ticks.jsonl", "actions.png", "failure.txt", "dataset"
_PLOTTED = 1
"""Episodes in the plot: more could not be read."""


@dataclass(frozen=True)
class Outcome:
    """How an episode went."""

    state: State
    reason: str
    counts: Counts
    success: bool | None
    """None where the robot cannot tell."""


def control(cfg: DictConfig) -> list[Outcome]:
    """What `scripts/control.py` does: let `cfg.policy` drive `cfg.robot` for `cfg.episodes`, and say how it went.

    Raises:
        ValueError: the policy does not fit the robot or is not proved, a limit is missing, or the log's folder is in use.
        CheckFailedError: a policy in a folder does not do what it did when it was trained.
        OSError: robot or policy cannot be reached, or fails; what was played is written before.
    """
    folder, signals = Path(cfg.to), StopSignal()
    if (folder / TICKS_FILE).exists():
        raise ValueError(f"{folder} holds the log of an earlier run: name another folder, to=..., or move it away.")
    cfg.task = only_task(cfg.task, what="what a robot does")
    cfg.policy = _chosen(cfg)
    with ExitStack() as leaving:
        policy, contract = leaving.enter_context(acting(cfg))
        if not is_address(str(cfg.policy)):
            findings = proof(policy, contract, Path(cfg.policy), unproved=cfg.unproved)
            tell(findings)
            require(findings)
        policy, contract, said = in_robot_units(policy, contract, dict(cfg.robot.get("units") or {}))
        if said:
            say(f"Converted for the policy: {said}.")
        robot: Robot = build(cfg.robot.make)(embodiment=contract.embodiment)
        parts = _parts(cfg, robot, policy, contract)  # before anything is connected
        memory = InMemory()
        dataset = build(cfg.ticks)(folder / DATASET, contract.embodiment, hz=robot.hz)
        films = Films(folder / FILMS, [int(index) for index in cfg.films], robot)
        live = [build(cfg.live)(embodiment=contract.embodiment)] if "live" in cfg else []
        log = All([JsonLines(folder / TICKS_FILE), memory, dataset, films, *live])
        leaving.callback(log.close)
        leaving.enter_context(signals.listening())
        parts = replace(parts, log=log, stop=AnyOf([StopFile(cfg.stop_file), StopKey(), signals]))
        outcomes: list[Outcome] = []
        try:
            _drive(cfg, robot, parts, outcomes)
        finally:
            if outcomes:
                _report(folder, outcomes, memory, contract)
    return outcomes


def _chosen(cfg: DictConfig) -> str:
    """The address, or the folder of the state that is meant."""
    if not is_address(str(cfg.policy)):
        return str(chosen_run(cfg, Path(cfg.policy)))
    if given := [key for key in ("use", "step") if cfg[key] is not None]:
        raise ValueError(f"{given[0]}={cfg[given[0]]} chooses a checkpoint of a run's folder: say it where {cfg.policy} is served.")
    return str(cfg.policy)


def _parts(cfg: DictConfig, robot: Robot, policy: Policy, contract: Contract) -> Parts:
    body, extents = contract.embodiment, Extents.executed(contract)
    return Parts(
        robot=spoilt(robot, build(cfg.robot.faults)),
        policy=policy if cfg.instruction is None else Instructed(policy, cfg.instruction),
        actions=ActionRange(extents, margin=float(cfg.margin)),
        set_points=SetPoints(body, _state_of(cfg, robot), build(cfg.robot.origin)),
        safety=Safety(build(cfg.robot.limits).axes(body, extents), hz=robot.hz),
        execution=under_contract(build(_execution(cfg)), contract),
        stop=AnyOf([]),
        rules=build(cfg.rules),
        log=InMemory(),
    )


def _execution(cfg: DictConfig) -> DictConfig:
    """How chunks are played; `strategy=` is its old name, which goes with the next version."""
    if "strategy" not in cfg:
        return cfg.execution
    say("strategy= is called execution= now: say that, the old name goes with the next version.")
    return cfg.strategy


def _state_of(cfg: DictConfig, robot: Robot) -> dict[str, str | None]:
    """What measures each action group; a real robot moves what nothing measures only where its YAML says null."""
    if cfg.robot.state_of is not None:
        return dict(cfg.robot.state_of)
    found = measured_by(robot.embodiment)
    return found if isinstance(robot, SimulatedRobot) else {name: state for name, state in found.items() if state is not None}


def _drive(cfg: DictConfig, robot: Robot, parts: Parts, outcomes: list[Outcome]) -> None:
    """Connect, play the episodes, let go; `outcomes` grows by each, the one that failed included."""
    with ExitStack() as leaving:
        robot.connect()
        leaving.callback(robot.disconnect)
        for index in range(cfg.episodes):
            controller, reason = Controller(parts), None
            try:
                if isinstance(robot, SimulatedRobot):
                    robot.start(episode_seed(cfg.seed, suite=cfg.env.suite, task=cfg.task, episode=index))
                controller.run(seconds=float(cfg.seconds))
            except Exception as error:
                controller.state, reason = State.STOP, f"{type(error).__name__}: {error}"
                if isinstance(error, ValueError | OSError):
                    raise
                raise _failure(error, Path(cfg.to)) from error
            finally:
                success = robot.success if isinstance(robot, SimulatedRobot) else None
                outcomes.append(Outcome(controller.state, reason or controller.reason, controller.counts, success))
            if parts.stop.pressed():
                return


def _failure(error: Exception, folder: Path) -> RobotError:
    """What is told where a driver raises anything; where it did is kept in a file."""
    (folder / FAILURE_FILE).write_text(traceback.format_exc())
    return RobotError(f"the robot failed: {type(error).__name__}: {error} ({folder / FAILURE_FILE} says where)")


def _report(folder: Path, outcomes: list[Outcome], memory: InMemory, contract: Contract) -> None:
    body = contract.embodiment
    names = [
        f"{group.name}[{axis}]" if group.dimension > 1 else group.name for group in body.action for axis in range(group.dimension)
    ]
    record = summary(outcomes)
    write_json(folder / RESULTS_FILE, record)  # first: nothing that fails later takes it away
    if plotted := memory.ticks[: sum(outcome.counts.ticks for outcome in outcomes[:_PLOTTED])]:
        plot_ticks(plotted, folder / PLOT_FILE, names=names, units=body.action_units)
    for key, value in record.items():
        say(f"{key}: {value}")
    say(f"Written to {folder}: {TICKS_FILE}, {PLOT_FILE}, {RESULTS_FILE}")


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """What several episodes came to."""
    counts = [outcome.counts for outcome in outcomes]
    ticks = sum(count.ticks for count in counts)
    latencies = [latency for count in counts for latency in count.latencies]
    record: dict[str, Any] = {
        "episodes": len(outcomes),
        "ticks": ticks,
        "clamped_share": sum(count.clamped for count in counts) / max(1, ticks),
        "starved_share": sum(count.starved for count in counts) / max(1, ticks),
        "median_latency_seconds": float(np.median(latencies)) if latencies else None,
        **{name: sum(getattr(count, name) for count in counts) for name in ("rejected", "failures", "stale", "late")},
        "stopped": [outcome.reason for outcome in outcomes if outcome.state is State.STOP],
    }
    told = [outcome.success for outcome in outcomes if outcome.success is not None]
    if told:
        low, high = wilson_interval(sum(told), len(told))
        record |= {"successes": sum(told), "success_rate": sum(told) / len(told), "wilson_low": low, "wilson_high": high}
    return record
