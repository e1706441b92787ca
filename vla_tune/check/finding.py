"""What a probe found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One question about a policy, answered."""

    probe: str
    passed: bool
    said: str
    """With the numbers; where it failed, what is probably wrong and what to do."""

    @classmethod
    def of(cls, probe: str, passed: bool, said: str, *, otherwise: str) -> "Finding":
        """What was measured, and `otherwise` behind it where it failed."""
        return cls(probe, passed, said if passed else f"{said}: {otherwise}")

    def __str__(self) -> str:
        """In one line."""
        return f"{'ok  ' if self.passed else 'FAIL'} {self.probe}: {self.said}"


class CheckFailedError(Exception):
    """A policy that does not do what was trained; the findings say why."""
