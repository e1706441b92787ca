"""The policy in a thread of its own, so that the loop never waits for it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vla_tune.control.robot import Seen
from vla_tune.schema import Policy


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
    """Computes one chunk at a time in the background.

    The thread is a daemon: a policy that never answers keeps neither the loop nor the program.

    Args:
        policy: Only this thread calls it.
        clock: Seconds.
    """

    def __init__(self, policy: Policy, *, clock: Callable[[], float]) -> None:
        self._policy, self._clock = policy, clock
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._asked: tuple[Seen, int] | None = None
        self._computed: Computed | None = None
        self._busy = self._stopped = False
        threading.Thread(target=self._run, name="inference", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come, or to be taken."""
        return self._busy

    def ask(self, seen: Seen, *, played: int) -> None:
        """Begin to compute a chunk."""
        assert not self._busy, "the policy is asked one question at a time"
        with self._lock:
            self._asked, self._busy = (seen, played), True
        self._wake.set()

    def take(self) -> Computed | None:
        """What came, once."""
        with self._lock:
            computed, self._computed = self._computed, None
            if computed is not None:
                self._busy = False
            return computed

    def close(self) -> None:
        """No more questions."""
        self._stopped = True
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopped:
                return
            with self._lock:
                asked, self._asked = self._asked, None
            if asked is not None:
                self._put(self._compute(*asked))

    def _put(self, computed: Computed) -> None:
        with self._lock:
            self._computed = computed

    def _compute(self, seen: Seen, played: int) -> Computed:
        begun, chunk, failure = self._clock(), None, None
        try:
            chunk = self._policy.act([seen.observation])[0]
        except Exception as error:  # whatever a policy or a network raises, the loop decides
            failure = error
        return Computed(seen, played, self._clock() - begun, chunk, failure)
