"""A behaviour cloner without a base: some million numbers that learn from the demonstrations alone."""

from vla_tune.models.bc.checkpoint import BCCheckpoint
from vla_tune.models.bc.network import BCNetwork, Sizes

__all__ = ["BCCheckpoint", "BCNetwork", "Sizes"]
