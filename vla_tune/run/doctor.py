"""The doctor, with the ranges that the project was tested with."""

import importlib.metadata
import re

from omegaconf import DictConfig

from vla_tune.check.finding import CheckFailedError, Finding
from vla_tune.check.machine import Doctor
from vla_tune.printing import say


def doctor(cfg: DictConfig) -> list[Finding]:
    """What `scripts/doctor.py` does: examine the machine, and say what to do about it.

    Raises:
        CheckFailedError: something is missing or broken.
    """
    findings = []
    for finding in Doctor(required_ranges()).examine():
        say(str(finding))
        findings.append(finding)
    if failed := [finding.probe for finding in findings if not finding.passed]:
        raise CheckFailedError(f"this machine is not ready: {', '.join(failed)}.")
    return findings


def required_ranges() -> dict[str, str]:
    """Distribution -> range, of what `pyproject.toml` requires."""
    required = [line.partition(";")[0] for line in importlib.metadata.requires("vla-tune") or [] if "extra ==" not in line]
    pairs = (re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*(.*)", line) for line in required)
    return {found[1]: found[2].strip() for found in pairs if found}
