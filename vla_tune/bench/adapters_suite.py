"""What an adapter costs while a policy acts: merged, live, over a shared base, switched, and several in one batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from vla_tune.bench.measure import Row, Work, measure
from vla_tune.policy import Policy, SharedPolicies
from vla_tune.schema import Observation


@dataclass(frozen=True, kw_only=True)
class AdaptersSuite:
    """Chunks per second of one policy without, with and beside other adapters, on the same observations."""

    alone: Mapping[str, Callable[[], Policy]]
    """By name: what loads a policy with a model of its own; the first is what all are compared with."""
    shared: Callable[[int], SharedPolicies]
    """Loads the policies over one base, for so many rows in a forward pass."""
    observations: Callable[[], Sequence[Observation]]
    """What all of them act on."""
    together: int
    """Observations in the mixed batch."""
    repetitions: int

    def rows(self) -> list[Row]:
        """A row for each way to act."""
        seen = self.observations()
        if len(seen) < self.together:
            raise ValueError(f"together={self.together}: there are {len(seen)} observations; ask for more, or for fewer at once.")
        works = [self._work(name, partial(_one_by_one, load(), seen)) for name, load in self.alone.items()]
        single, several = self.shared(1), self.shared(self.together)
        works += [
            self._work("live, shared base", partial(_in_turn, single, seen, single.names[:1])),
            self._work("live, switched at each call", partial(_in_turn, single, seen, single.names)),
            self._work(f"live, {self.together} in a mixed batch", partial(_mixed, several, seen, self.together)),
        ]
        return measure("adapters", works, repetitions=self.repetitions)

    def _work(self, name: str, act: Callable[[], int]) -> Work:
        return Work(name=name, unit="chunks", do=lambda _: act())


def _one_by_one(policy: Policy, observations: Sequence[Observation]) -> int:
    for observation in observations:
        policy.act([observation])
    return len(observations)


def _in_turn(policies: SharedPolicies, observations: Sequence[Observation], names: Sequence[str]) -> int:
    for observation, name in zip(observations, cycle(names), strict=False):
        policies.act([observation], [name])
    return len(observations)


def _mixed(policies: SharedPolicies, observations: Sequence[Observation], together: int) -> int:
    whole = len(observations) // together * together
    for start in range(0, whole, together):
        policies.act(observations[start : start + together], list(islice(cycle(policies.names), together)))
    return whole
