"""What leaves the training machine: a merged checkpoint, and the folder around it."""

from vla_tune.export.merge import ParityError, Report, merge

__all__ = ["ParityError", "Report", "merge"]
