"""What happens to a step whose loss or gradient is not finite."""

import sys
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became infinite or NaN; the message names the step, the episodes and the frames."""


@runtime_checkable
class OnNonFinite(Protocol):
    """Ends the run or lets it go on; nothing was moved by the step."""

    def __call__(self, error: NonFiniteLossError, *, skipped: int) -> None:
        """Raise, or return to leave the step out; `skipped` steps of this run were left out before."""
        ...


@dataclass(frozen=True)
class Stop:
    """The run ends; its last checkpoint stands."""

    def __call__(self, error: NonFiniteLossError, *, skipped: int) -> None:
        """Raise `error` with what can be done about it."""
        raise NonFiniteLossError(
            f"{error} Nothing was moved; the last checkpoint stands. Look at these frames, then resume with on_non_finite=skip, "
            "or with a lower optimizer.learning_rate and resume=changed, or without the episode (data.exclude) and resume=changed."
        )


@dataclass(frozen=True)
class Skip:
    """The step is left out, and named; more than `limit` of them in a run end it."""

    limit: int

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"on_non_finite.limit={self.limit} must be at least 1; on_non_finite=stop leaves out none.")

    def __call__(self, error: NonFiniteLossError, *, skipped: int) -> None:
        """Say what is left out, or raise `error` if it is too much."""
        if skipped >= self.limit:
            raise NonFiniteLossError(
                f"{error} {skipped} steps were left out before, as many as on_non_finite.limit allows; the last checkpoint stands. "
                "This is no single bad frame: resume with a lower optimizer.learning_rate and resume=changed."
            )
        print(f"{error} Left out: {skipped + 1} of at most {self.limit}.", file=sys.stderr)
