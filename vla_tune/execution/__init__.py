"""How chunks of actions become the single action of each tick, in an evaluation, which waits for its policy, and on a robot."""

from vla_tune.execution.options import (
    AsTrained,
    Execution,
    FollowsContract,
    OpenLoop,
    RecedingHorizon,
    TemporalEnsemble,
    under_contract,
)
from vla_tune.execution.player import Player
from vla_tune.execution.timeline import Chunk, Timeline, averaged, two_ended

__all__ = [
    "AsTrained",
    "Chunk",
    "Execution",
    "FollowsContract",
    "OpenLoop",
    "Player",
    "RecedingHorizon",
    "TemporalEnsemble",
    "Timeline",
    "averaged",
    "two_ended",
    "under_contract",
]
