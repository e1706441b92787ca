"""Does it work? Seeded episodes, success rates with intervals, films and pictures."""

from vla_tune.evaluation.cell import Cell, evaluate_cell, finished, policy_identity
from vla_tune.evaluation.environments import in_processes, in_turn
from vla_tune.evaluation.episodes import EpisodeRecord, episode_seed, read_episodes, write_episodes
from vla_tune.evaluation.rollout import rollout
from vla_tune.evaluation.stats import PairedComparison, pairs_of, success_row, wilson_interval

__all__ = [
    "Cell",
    "EpisodeRecord",
    "PairedComparison",
    "episode_seed",
    "evaluate_cell",
    "finished",
    "in_processes",
    "in_turn",
    "pairs_of",
    "policy_identity",
    "read_episodes",
    "rollout",
    "success_row",
    "wilson_interval",
    "write_episodes",
]
