"""Policies: observations in, chunks of actions in robot units out."""

from vla_tune.policy.local import LocalPolicy, NonFiniteActionsError
from vla_tune.policy.shared import SharedPolicies, SharedPolicy
from vla_tune.schema import Policy, WatchedPolicy

__all__ = [
    "LocalPolicy",
    "NonFiniteActionsError",
    "Policy",
    "SharedPolicies",
    "SharedPolicy",
    "WatchedPolicy",
]
