"""The control loop in real time: whether it drifts, and how well late chunks are played."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from vla_tune.bench.measure import Row
from vla_tune.bench.table import row_lines
from vla_tune.control.emergency import AnyOf
from vla_tune.control.limits import Limits, Values
from vla_tune.control.log import InMemory
from vla_tune.control.loop import Controller
from vla_tune.control.parts import Parts
from vla_tune.control.robot import Seen
from vla_tune.control.safety import ActionRange, Filtered, Safety
from vla_tune.control.setpoints import FromCommanded, SetPoints
from vla_tune.control.state import Counts, Rules, State
from vla_tune.execution import Execution
from vla_tune.extents import Extents
from vla_tune.schema import Camera, Embodiment, Group, Observation

_RULES = Rules(stale=2.0, frozen=10.0, patience=10.0, rejections=3, watchdog=5.0)
_FAR = (3.2, 3.2)
_RANGE = Extents(low=-np.array(_FAR), high=np.array(_FAR), apart=np.zeros(2), code=np.zeros(2))


@dataclass(frozen=True, kw_only=True)
class ControlSuite:
    """Two joints that follow a smooth path; the policy knows it, but every chunk is off by a constant of its own.

    Args:
        executions: By name.
        latencies: Seconds from an observation to its chunk.
        limits: Of both joints, as a robot's YAML gives them.
        hz: Of the executions' comparison.
        horizon: Actions of a chunk.
        bias: Standard deviation of a chunk's constant, in rad.
        seconds: Of each execution, latency and choice of safety.
        drift_hz: Of the loop whose drift is measured.
        drift_seconds: For which it runs.
        seed: Of the constants.
    """

    executions: Mapping[str, Execution]
    latencies: Sequence[float]
    limits: Mapping[str, Values]
    hz: int
    horizon: int
    bias: float
    seconds: float
    drift_hz: int
    drift_seconds: float
    seed: int

    def rows(self) -> list[Row]:
        """The drift, then every execution at every latency with and without safety."""
        rows = [self._drift()]
        for latency in self.latencies:
            for name, execution in self.executions.items():
                for safety, kind in (("without", _Passes), ("with", Safety)):
                    row: Row = {"name": name, "latency_ms": 1000 * latency, "safety": safety}
                    rows.append(row | self._played(execution, latency, kind))
        return rows

    def report(self, rows: Sequence[Row]) -> str:
        """The rows as text."""
        return row_lines(rows)

    def _drift(self) -> Row:
        arm = _Arm(float(self.drift_hz))
        policy = _KnowsThePath(arm.path, self.horizon, 0.1, 0.0, self.seed)
        counts, log = _run(arm, policy, next(iter(self.executions.values())), self._safety(Safety, arm), self.drift_seconds)
        off = np.array([tick.time - log.ticks[0].time - tick.tick / self.drift_hz for tick in log.ticks])
        return {
            "name": f"{self.drift_hz} Hz for {self.drift_seconds:g} s",
            "ticks": len(log.ticks),
            "late": counts.late,
            "drift_ms": 1000 * float(np.median(off[-self.drift_hz :])),
            "p99_late_ms": 1000 * float(np.quantile(off, 0.99)),
            "worst_late_ms": 1000 * float(off.max()),
        }

    def _played(self, execution: Execution, latency: float, kind: type[Safety]) -> Row:
        arm = _Arm(float(self.hz))
        policy = _KnowsThePath(arm.path, self.horizon, latency, self.bias, self.seed)
        counts, log = _run(arm, policy, execution, self._safety(kind, arm), self.seconds)
        commands = np.stack([tick.command for tick in log.ticks])
        error = np.stack(arm.sent) - arm.path(np.arange(len(arm.sent), dtype=np.float64))
        return {
            "rms_error_mrad": 1000 * float(np.sqrt((error**2).mean())),
            "max_step_mrad": 1000 * float(np.abs(np.diff(commands, axis=0)).max()),
            "starved_share": counts.starved / counts.ticks,
            "clamped_share": counts.clamped / counts.ticks,
            "chunks": policy.asked,
        }

    def _safety(self, kind: type[Safety], arm: "_Arm") -> Safety:
        return kind(Limits({"joints": self.limits}).axes(arm.embodiment), hz=arm.hz)


def _run(arm: "_Arm", policy: "_KnowsThePath", execution: Execution, safety: Safety, seconds: float) -> tuple[Counts, InMemory]:
    log, body = InMemory(), arm.embodiment
    parts = Parts(
        robot=arm,
        policy=policy,
        actions=ActionRange(_RANGE, margin=0.0),
        set_points=SetPoints(body, {"joints": "joints"}, FromCommanded()),
        safety=safety,
        execution=execution,
        stop=AnyOf([]),
        rules=_RULES,
        log=log,
    )
    controller = Controller(parts)
    controller.run(seconds=seconds)
    if controller.state is State.STOP:
        raise RuntimeError(f"the loop that is measured was stopped: {controller.reason}")
    return controller.counts, log


class _Passes(Safety):
    """Everything, as it comes."""

    @property
    def moving(self) -> bool:
        return False

    def filter(self, target: Float[np.ndarray, " A"]) -> Filtered:
        self._command = target
        return Filtered(target, np.zeros(len(target), bool))

    def brake(self) -> Filtered:
        return Filtered(self.command, np.zeros(len(self.command), bool))


@dataclass(eq=False)
class _Arm:
    """Is where it was sent; it observes its position and how many actions it was sent."""

    hz: float
    sent: list[Float[np.ndarray, " 2"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        joints = _group("joints", 2, unit="rad")
        self.embodiment = Embodiment(
            name="two joints on a path",
            cameras=(Camera(role="front", key="observation.images.front", height=2, width=2),),
            state_key="observation.state",
            state=(joints, _group("progress", 1, unit="1")),
            action_key="action",
            action=(joints,),
            control_hz=self.hz,
        )
        self._pictures = 0

    def path(self, progress: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 2"]:
        """Where it is to be after so many actions, in rad: at most 1.5 rad/s2 at the policy's rate."""
        seconds = progress / self.hz
        return np.stack([0.4 * np.sin(1.9 * seconds), 0.3 * np.sin(1.1 * seconds + 0.5) - 0.3 * np.sin(0.5)], axis=-1)

    def connect(self) -> None: ...

    def observe(self) -> Seen:
        self._pictures += 1
        image = np.full((2, 2, 3), self._pictures % 256, np.uint8)
        position = self.sent[-1] if self.sent else np.zeros(2)
        state = np.array([*position, len(self.sent)], np.float32)
        return Seen(Observation({"front": image}, state, "follow the path"), time.monotonic())

    def send(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        self.sent.append(action.astype(np.float64))
        return action

    def hold(self) -> None: ...

    def stop(self) -> None: ...

    def disconnect(self) -> None: ...


class _KnowsThePath:
    def __init__(
        self,
        path: Callable[[Float[np.ndarray, " T"]], Float[np.ndarray, "T 2"]],
        horizon: int,
        latency: float,
        bias: float,
        seed: int,
    ) -> None:
        self._path, self._horizon, self._latency, self._bias = path, horizon, latency, bias
        self._random, self.asked = np.random.default_rng(seed), 0

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        time.sleep(self._latency)
        self.asked += 1
        progress = np.arange(self._horizon) + float(observations[0].state[-1])
        return (self._path(progress) + self._random.normal(0.0, self._bias, 2))[None].astype(np.float32)

    def reset(self) -> None: ...


def _group(name: str, dimension: int, *, unit: str) -> Group:
    return Group(
        name=name,
        dimension=dimension,
        unit=unit,
        frame="none",
        representation="absolute",
        rotation="none",
        normalization="quantile",
        gripper=None,
    )
