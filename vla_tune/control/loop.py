"""The controller: one command per tick, whatever the policy, the network or the sensors do."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from jaxtyping import Float

from vla_tune.control.emergency import AnyOf, EmergencyStop, Watchdog
from vla_tune.control.log import Tick
from vla_tune.control.parts import Parts, ticks_per_action
from vla_tune.control.robot import Seen
from vla_tune.control.safety import Filtered, Freshness, UnsafeError
from vla_tune.control.state import Counts, State
from vla_tune.execution import two_ended
from vla_tune.schema import Policy

_log = logging.getLogger(__name__)
_RECENT = 5
"""Answers, the slowest of which is expected of the next one."""


@dataclass(frozen=True)
class Computed:
    """What came of an observation."""

    seen: Seen
    played: int
    """How many actions had been played when it was made."""
    seconds: float
    chunk: Float[np.ndarray, "T A"] | None
    error: Exception | None


class Inference:
    """Computes one chunk at a time in a thread of its own, so that the loop never waits for the policy.

    The thread is a daemon: a policy that never answers keeps neither the loop nor the program.

    Args:
        policy: Only this thread calls it.
        clock: Seconds.
    """

    def __init__(self, policy: Policy, *, clock: Callable[[], float]) -> None:
        self._policy, self._clock = policy, clock
        self._questions: SimpleQueue[tuple[Seen, int] | None] = SimpleQueue()
        self._answers: SimpleQueue[Computed] = SimpleQueue()
        self._stopped = False
        self.busy = False
        """Whether an answer is still to come, or to be taken."""
        threading.Thread(target=self._run, name="inference", daemon=True).start()

    def ask(self, seen: Seen, *, played: int) -> None:
        """Begin to compute a chunk."""
        assert not self.busy, "the policy is asked one question at a time"
        self.busy = True
        self._questions.put((seen, played))

    def take(self) -> Computed | None:
        """What came, once."""
        if self._answers.empty():
            return None
        self.busy = False
        return self._answers.get()

    def close(self) -> None:
        """No more questions."""
        self._stopped = True
        self._questions.put(None)

    def _run(self) -> None:
        while (asked := self._questions.get()) is not None and not self._stopped:
            self._put(self._compute(*asked))

    def _put(self, computed: Computed) -> None:
        self._answers.put(computed)

    def _compute(self, seen: Seen, played: int) -> Computed:
        begun, chunk, failure = self._clock(), None, None
        try:
            chunk = self._policy.act([seen.observation])[0]
        except Exception as error:  # whatever a policy or a network raises, the loop decides
            failure = error
        return Computed(seen, played, self._clock() - begun, chunk, failure)


class Controller:
    """Drives a robot through one episode.

    Raises:
        ValueError: the robot's rate is no multiple of the policy's, or the execution cannot mix such actions.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, body = parts, parts.robot.embodiment
        self._every = ticks_per_action(parts.robot.hz, body.control_hz)
        self._timeline, self._jumps = parts.execution.timeline(body), two_ended(body)
        self._freshness = Freshness(stale=parts.rules.stale, frozen=parts.rules.frozen)
        self._none = np.full(body.action_dimension, np.nan)
        self.state, self.reason, self.counts = State.INIT, "", Counts()
        self._played = self._between = self._refused = 0
        self._held_since: float | None = None
        self._note = ""

    def run(self, *, seconds: float) -> Seen:
        """Arm, then tick until the time or the episode is over or something stops the robot; returns what was seen last.

        Whatever happens, the robot is at rest afterwards. It is never driven to another place.

        Raises:
            Exception: what the robot raised; it was stopped before.
        """
        parts, clock = self._parts, self._parts.clock
        inference = Inference(parts.policy, clock=clock.now)
        watchdog = Watchdog(parts.robot.stop, seconds=parts.rules.watchdog, clock=clock.now)
        stop = AnyOf([parts.stop, watchdog])
        try:
            seen, begun, turn = self._arm(), clock.now(), 0
            while turn < seconds * parts.robot.hz and not seen.over and not self._at_end:
                clock.sleep_until(begun + turn / parts.robot.hz)
                missed = max(0, int((clock.now() - begun) * parts.robot.hz) - turn)
                self.counts.late += missed
                turn += missed
                seen = self._tick(inference, stop, turn)
                watchdog.beat()
                turn += 1
            if not seen.over:
                self._come_to_rest(begun, turn)
            return seen
        except BaseException:
            self.state = State.STOP
            parts.robot.stop()
            raise
        finally:
            watchdog.close()
            inference.close()
            parts.log.end_episode()

    @property
    def _at_end(self) -> bool:
        return self.state is State.STOP and not self._parts.safety.moving

    def _arm(self) -> Seen:
        """Observe, and begin the trajectory where the robot is."""
        self._parts.policy.reset()
        seen = self._parts.robot.observe()
        self._measured = self._parts.set_points.measured(seen.observation.state)
        self._parts.safety.seed(self._measured, unknown=self._parts.set_points.unmeasured)
        self._from = self._aim = self._parts.safety.command
        self._change(State.ARMED, "observed")
        return seen

    def _tick(self, inference: Inference, stop: EmergencyStop, turn: int) -> Seen:
        parts, now = self._parts, self._parts.clock.now()
        seen = parts.robot.observe()
        if reason := stop.pressed():
            self._change(State.STOP, reason)
        fresh = self._look(seen, parts.clock.now())  # after it was observed: sensors are read meanwhile
        self._take(inference.take(), now)
        if fresh and self.state is not State.STOP and not inference.busy and self._timeline.wants(latency=self._latency):
            inference.ask(seen, played=self._played)
        before = parts.safety.command
        raw, asked, filtered = self._next(fresh, now)
        sent = self._send(filtered, before)
        self.counts.ticks += 1
        self.counts.clamped += bool(filtered.clamped.any())
        self.counts.starved += self.state is State.HOLD
        log_entry = Tick(turn, now, self.state, seen.time, raw, asked, filtered.command, sent, filtered.clamped, self._note)
        parts.log.add(log_entry, seen)
        self._note = ""
        return seen

    @property
    def _latency(self) -> int:
        """In actions; of the slowest recent answer, for a chunk that comes late starves the robot."""
        recent = self.counts.latencies[-_RECENT:]
        return int(np.ceil(max(recent) * self._parts.robot.embodiment.control_hz)) if recent else 0

    def _look(self, seen: Seen, now: float) -> bool:
        """Whether this may be acted on; if so, it is where the robot is."""
        problem = self._freshness.problem(seen, now=now, moving=self.state is State.RUN)
        if problem is None:
            self._measured = self._parts.set_points.measured(seen.observation.state)
            return True
        self.counts.stale += 1
        self._note = problem
        return False

    def _take(self, computed: Computed | None, now: float) -> None:
        """Put a chunk that came into the timeline, or note why not."""
        if computed is None:
            return
        age = now - computed.seen.time
        if computed.chunk is None:
            self.counts.failures += 1
            self._note = f"{type(computed.error).__name__}: {computed.error}"
        elif problem := self._parts.actions.problem(computed.chunk):
            self._refuse(problem)
        elif age > self._parts.rules.stale:
            self.counts.stale += 1
            self._note = f"a chunk came {age:.2f} s after its observation"
        else:
            self.counts.latencies.append(age)
            self._refused = 0
            self._timeline.add(computed.chunk, elapsed=self._played - computed.played)

    def _refuse(self, problem: str) -> None:
        self.counts.rejected += 1
        self._refused += 1
        self._note = f"a chunk was refused: {problem}"
        if self._refused >= self._parts.rules.rejections:
            self._change(State.STOP, f"{self._refused} chunks in a row were refused; the last: {problem}")

    def _next(self, fresh: bool, now: float) -> tuple[Float[np.ndarray, " A"], Float[np.ndarray, " A"], Filtered]:
        """The policy's action where one begins, the set-point that is asked for, and what may be commanded."""
        safety, raw = self._parts.safety, self._none
        if self.state is State.STOP:
            return raw, raw, safety.brake()
        if self._between == 0:
            action = self._timeline.next() if fresh else None
            if action is None:
                self._starve(now)
                return raw, raw, safety.brake()
            raw = action
            self._begin(action)
        self._between = (self._between + 1) % self._every
        share = self._between / self._every or 1.0
        asked = np.where(self._jumps, self._aim, self._from + share * (self._aim - self._from))
        try:
            return raw, asked, safety.filter(asked)
        except UnsafeError as error:
            self._change(State.STOP, str(error))
            return raw, asked, safety.brake()

    def _begin(self, action: Float[np.ndarray, " A"]) -> None:
        """Aim at what an action asks for."""
        self._played += 1
        self._held_since = None
        command, points = self._parts.safety.command, self._parts.set_points
        # a command may lag behind its set-point: to begin there again would make the next one step back
        self._from = np.where(points.deltas, command, self._aim) if self.state is State.RUN else command
        self._aim = points.target(action, commanded=command, measured=self._measured)
        self._from = np.where(np.isnan(self._from), self._aim, self._from)  # nobody knew where that was
        self._change(State.RUN, "there are actions")

    def _starve(self, now: float) -> None:
        """Nothing to play: hold, and after a while stop."""
        why = self._note or "no action is left"
        self._held_since = now if self._held_since is None else self._held_since
        if self.state is State.RUN:
            self._timeline.clear()
            self._change(State.HOLD, why)
        if now - self._held_since > self._parts.rules.patience:
            self._change(State.STOP, f"held for {self._parts.rules.patience:g} s: {why}")

    def _send(self, filtered: Filtered, before: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        """Command it; a robot that is to rest, and does, holds or is stopped."""
        robot = self._parts.robot
        if self.state is not State.RUN and not self._parts.safety.moving:
            robot.stop() if self.state is State.STOP else robot.hold()
            return self._none
        action = self._parts.set_points.action(filtered.command, commanded=before, measured=self._measured).astype(np.float32)
        if not np.isfinite(action).all():
            self._change(State.STOP, f"an action is not finite: {action.tolist()}")
            robot.stop()
            return self._none
        return robot.send(action)

    def _come_to_rest(self, begun: float, turn: int) -> None:
        """The time is over in the middle of a motion."""
        parts = self._parts
        while parts.safety.moving:
            parts.clock.sleep_until(begun + turn / parts.robot.hz)
            before = parts.safety.command
            self._send(parts.safety.brake(), before)
            turn += 1
        if self.state is not State.STOP:
            parts.robot.hold()

    def _change(self, state: State, reason: str) -> None:
        if state is self.state or self.state is State.STOP:
            return
        _log.info("%s -> %s: %s", self.state, state, reason)
        self.state, self.reason, self._note = state, reason, reason
