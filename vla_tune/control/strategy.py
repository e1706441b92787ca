"""The names that `vla_tune.execution` had here; they go with the next version."""

from vla_tune.execution import AsTrained, Execution, OpenLoop, RecedingHorizon, TemporalEnsemble

Strategy, Ensemble = Execution, TemporalEnsemble

__all__ = ["AsTrained", "Ensemble", "OpenLoop", "RecedingHorizon", "Strategy"]
