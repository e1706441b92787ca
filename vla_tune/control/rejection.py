"""The older place of `vla_tune.control.safety`'s refusals, for one version more."""

from vla_tune.control.safety import ActionRange, Freshness

__all__ = ["ActionRange", "Freshness"]
