"""How far an action reaches in each dimension, by the rule of its group: what errors and slacks are shares of."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.schema import Contract, placed


@dataclass(frozen=True, eq=False)
class Extents:
    """Of each action dimension, in robot units."""

    low: Float[np.ndarray, " A"]
    """The smallest value in the data."""
    high: Float[np.ndarray, " A"]
    """The largest."""
    apart: Float[np.ndarray, " A"]
    """From engaged to released, where the dimension has these ends; else 0."""
    code: Float[np.ndarray, " A"]
    """Between neighbouring codes: no policy that speaks codes can be held to less."""

    @classmethod
    def of(cls, contract: Contract) -> "Extents":
        """Those of a contract's robot and data."""
        column, groups = contract.statistics.action, contract.embodiment.action
        ends = [0.0 if group.gripper is None else abs(group.gripper.engaged - group.gripper.released) for group in groups]
        sizes = [group.dimension for group in groups]
        low, high = np.array(column.min), np.array(column.max)
        reach = np.maximum(high - low, np.repeat(ends, sizes))
        code = contract.resolution * np.where(column.mask, reach / 2, 1.0)
        return cls(low, high, np.repeat(ends, sizes), code)

    @classmethod
    def executed(cls, contract: Contract) -> "Extents":
        """The same of what a robot is sent: an action relative to a chunk's start, added to the states of the data."""
        extents, state = cls.of(contract), contract.statistics.state
        low, high = extents.low.copy(), extents.high.copy()
        states = {group.name: part for group, part in placed(contract.embodiment.state)}
        for group, part in placed(contract.embodiment.action):
            if group.representation == "relative_to_first":
                low[part] += np.array(state.min)[states[group.name]]
                high[part] += np.array(state.max)[states[group.name]]
        return replace(extents, low=low, high=high)

    @property
    def reach(self) -> Float[np.ndarray, " A"]:
        """From the smallest to the largest value, at least from engaged to released; 0 where nothing ever moved."""
        return np.maximum(self.high - self.low, self.apart)

    @property
    def span(self) -> Float[np.ndarray, " A"]:
        """The same to divide by: 1 where nothing ever moved."""
        return np.where(self.reach > 0, self.reach, 1.0)

    @property
    def constant(self) -> Bool[np.ndarray, " A"]:
        """Where the data holds one value."""
        return self.low == self.high

    def slack(self, share: float, *, codes: float) -> Float[np.ndarray, " A"]:
        """A share of the reach, at least as much as some codes come to."""
        return np.maximum(share * self.reach, codes * self.code)

    def allowed(self, share: float) -> tuple[Float[np.ndarray, " A"], Float[np.ndarray, " A"]]:
        """From where to where an action may lie: the data's range, a share of it more on both sides, and two codes at least."""
        slack = self.slack(share, codes=_CODES) + _ROUNDING * (1 + np.abs(self.low))
        return self.low - slack, self.high + slack


_CODES = 2.0
_ROUNDING = 1e-6
