"""Policies: observations in, chunks of actions in robot units out."""

from vla_tune.policy.local import TEXT_BUCKET, LocalPolicy, NonFiniteActionsError, Policy, RecordedPolicy, WatchedPolicy
from vla_tune.policy.shared import SharedPolicies, SharedPolicy

__all__ = [
    "TEXT_BUCKET",
    "LocalPolicy",
    "NonFiniteActionsError",
    "Policy",
    "RecordedPolicy",
    "SharedPolicies",
    "SharedPolicy",
    "WatchedPolicy",
]
