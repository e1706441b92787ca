"""What a probe found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One question about a policy, answered."""

    probe: str
    passed: bool
    said: str
    """With the numbers; where it failed, what is probably wrong and what to do."""

    def __str__(self) -> str:
        """In one line."""
        return f"{'ok  ' if self.passed else 'FAIL'} {self.probe}: {self.said}"


class CheckFailedError(Exception):
    """A policy that does not do what was trained; the findings say why."""
