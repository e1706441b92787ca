"""The older place of `vla_tune.models.heads`, which configurations of one's own may name for one version more."""

from vla_tune.models.heads import AutoregressiveTokenHead, ParallelTokenHead, RegressionHead

__all__ = ["AutoregressiveTokenHead", "ParallelTokenHead", "RegressionHead"]
