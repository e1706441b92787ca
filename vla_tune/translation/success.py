"""Ways in which an environment lets know that its goal is reached, besides values that a `Source` reads.

Whether a goal that was reached and left again counts is the evaluation's rule (`success=once`, `success=at_the_end`).
"""

from dataclasses import dataclass

from vla_tune.environment import said_bool
from vla_tune.translation.moment import Moment


@dataclass(frozen=True, kw_only=True)
class WhenInInfo:
    """A key of `info` that is only there when there is something to tell: where it is missing, the goal is not reached.

    It says nothing of a goal that is left again: count it by `success=once`.
    """

    key: str

    def __call__(self, moment: Moment) -> bool:
        """What it tells.

        Raises:
            ValueError: it is no truth value; or it is missing while another key has "success" in its name.
        """
        if self.key in moment.info:
            return as_success(moment.info[self.key], f"info[{self.key!r}]")
        alike = [str(key) for key, value in moment.info.items() if "success" in str(key).lower() and said_bool(value) is not None]
        if alike:
            raise ValueError(f"info has no {self.key!r}, but tells {', '.join(sorted(alike))}: name that key as the success.")
        return False


@dataclass(frozen=True)
class Terminated:
    """The environment terminates where its goal is reached, and nowhere else."""

    def __call__(self, moment: Moment) -> bool:
        """Whether it did."""
        return moment.terminated


@dataclass(frozen=True, kw_only=True)
class RewardAtLeast:
    """The reward of one step reaches a threshold."""

    threshold: float

    def __call__(self, moment: Moment) -> bool:
        """Whether it does."""
        return moment.reward >= self.threshold


def as_success(value: object, where: str) -> bool:
    """A truth value in any form: a bool, 0 or 1, or an array of one of them.

    Raises:
        ValueError: it is none.
    """
    if (told := said_bool(value)) is None:
        raise ValueError(f"the success is read from {where}, which is {value!r}: it must be True or False, 0 or 1.")
    return told
