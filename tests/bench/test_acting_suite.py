"""Every policy acts on the same observations, one at a time."""

from collections.abc import Sequence
from functools import partial

import gymnasium
import numpy as np
import pytest

from vla_tune.bench.acting_suite import ActingSuite
from vla_tune.policy import LocalPolicy
from vla_tune.schema import Observation


class Recorded:
    """Acts as another policy does, and keeps what it saw."""

    def __init__(self, policy: LocalPolicy) -> None:
        self.policy, self.contract, self.observations = policy, policy.contract, []

    def act(self, observations: Sequence[Observation]) -> np.ndarray:
        self.observations.extend(observations)
        return self.policy.act(observations)

    def reset(self) -> None:
        self.policy.reset()


@pytest.fixture
def policy(policy_of) -> LocalPolicy:
    return policy_of(rows=1)


def test_policies_act_on_the_same_first_observations(policy: LocalPolicy):
    recorded = {name: Recorded(policy) for name in ("one", "two")}
    suite = ActingSuite(
        policies={name: partial(lambda made: made, made) for name, made in recorded.items()},
        make_env=partial(gymnasium.make, "envs:vla_tune/Tabletop-v0", disable_env_checker=True),
        task="touch",
        episodes=3,
        repetitions=2,
    )
    rows = suite.rows()
    assert [(row["work"], row["unit"], row["amount"], row["baseline"]) for row in rows] == [
        ("one", "chunks", 3, "one"),
        ("two", "chunks", 3, "one"),
    ]
    seen, others = (each.observations for each in recorded.values())
    assert len(seen) == len(others) == 3 * 3  # once beforehand, and two repetitions
    assert all((mine.state == theirs.state).all() for mine, theirs in zip(seen, others, strict=True))
    assert not (seen[0].images["front"] == seen[1].images["front"]).all()


def test_no_policy_is_an_error():
    with pytest.raises(ValueError, match=r"name folders of runs, e.g. 'suite.runs=\[runs/a,runs/b\]'"):
        ActingSuite(policies={}, make_env=gymnasium.make, task="lift", episodes=1, repetitions=1)
