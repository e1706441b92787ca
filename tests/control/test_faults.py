"""Whatever goes wrong with sensors, policy and time: no command beyond the limits, and every tick in the log."""

import numpy as np
import pytest

from vla_tune.control.log import InMemory
from vla_tune.control.simulated import Delayed, Dropped, FrozenCamera, NotANumber, spoilt
from vla_tune.control.state import Rules, State
from vla_tune.execution import OpenLoop, RecedingHorizon, TemporalEnsemble

RULES = Rules(stale=0.5, frozen=0.6, patience=0.5, rejections=3, watchdog=10.0)
FAULTS = {
    "late": lambda: [Delayed(ticks=6)],
    "late by chance": lambda: [Delayed(ticks=6, jitter=6)],
    "dropped": lambda: [Dropped(share=0.6)],
    "lost for good": lambda: [Dropped(share=1.0, after=30)],
    "NaN": lambda: [NotANumber(share=0.2)],
    "NaN for good": lambda: [NotANumber(share=1.0, after=30)],
    "frozen": lambda: [FrozenCamera(after=30)],
    "all of it": lambda: [Delayed(ticks=4, jitter=4), Dropped(share=0.4), NotANumber(share=0.1)],
}


class Wild:
    """Chunks that jump about; now and then it fails, says nonsense or takes long."""

    def __init__(self, clock, *, failures: float) -> None:
        self.clock, self.random, self.failures = clock, np.random.default_rng(0), failures

    def act(self, observations):
        self.clock.takes(self.random.uniform(0.0, 0.12))
        chunk = np.concatenate([self.random.normal(0.0, 0.6, (10, 2)).clip(-1, 1), np.ones((10, 1))], axis=1).astype(np.float32)
        kind = self.random.random()
        if kind < self.failures / 3:
            raise ConnectionError("the server is gone")
        if kind < 2 * self.failures / 3:
            chunk[3, 1] = np.nan
        elif kind < self.failures:
            chunk *= 100
        return chunk[None]

    def reset(self) -> None: ...


STRATEGIES = [OpenLoop(blend=1), RecedingHorizon(steps=3, blend=2), TemporalEnsemble(decay=0.01)]


@pytest.mark.parametrize(("fault", "execution"), [(fault, STRATEGIES[place % 3]) for place, fault in enumerate(FAULTS)], ids=str)
def test_no_command_is_beyond_the_limits(arm, controlled, assert_within_limits, fault, execution):
    log = InMemory()
    robot = spoilt(arm, FAULTS[fault]())
    controller, _ = controlled(Wild(arm.clock, failures=0.3), robot=robot, execution=execution, rules=RULES, log=log)
    controller.run(seconds=1.6)
    assert len(log.ticks) == controller.counts.ticks > 0
    assert_within_limits(np.stack([tick.command for tick in log.ticks]))
    assert np.abs(np.diff(np.stack(arm.sent)[:, :2], axis=0)).max(initial=0) <= 0.05
    if fault.endswith("for good") or fault == "frozen":
        assert controller.state in (State.HOLD, State.STOP)
        resting = log.ticks[-1].command - log.ticks[-2].command
        assert np.abs(resting).max() < 1e-12  # held, or stopped, within the promised time
