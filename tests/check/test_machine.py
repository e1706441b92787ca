"""The doctor: what is broken is named with a remedy."""

import importlib.metadata

import pytest

from vla_tune.check import machine
from vla_tune.check.machine import Doctor, within
from vla_tune.run.doctor import required_ranges


def findings(requirements: dict[str, str]) -> dict:
    return {finding.probe: finding for finding in Doctor(requirements).examine()}


def test_the_machine_of_the_tests_is_well():
    assert [str(finding) for finding in findings(required_ranges()).values() if not finding.passed] == []


@pytest.mark.parametrize(
    ("version", "tested", "fits"),
    [
        ("1.4.0", ">=1.4,<1.5", True),
        ("1.5.0", ">=1.4,<1.5", False),
        ("2.11.0+cpu", "==2.11.*", True),
        ("2.12.0", "==2.11.*", False),
        ("0.21.2", ">=0.21.2,<0.22", True),
        ("0.21.1", ">=0.21.2,<0.22", False),
        ("25.1", ">=25", True),
        ("9", "", True),
    ],
)
def test_ranges(version, tested, fits):
    assert within(version, tested) is fits


def test_what_is_missing_or_broken_is_named(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    monkeypatch.setattr(machine.os, "statvfs", lambda path: type("S", (), {"f_bavail": 1, "f_frsize": 2**20})())
    found = findings({"numpy": ">=99", "no-such-library": ">=1"})
    assert "numpy" in found["versions"].said
    assert "no-such-library is missing" in found["versions"].said
    assert "uv sync" in found["versions"].said
    assert "MUJOCO_GL=nonsense draws nothing" in found["rendering"].said
    assert "0.0 GiB free here" in found["disk"].said
    assert not any(found[name].passed for name in ("versions", "rendering", "disk"))


def test_a_plug_in_that_lerobot_cannot_find_is_named(monkeypatch):
    found = [type("D", (), {"metadata": {"Name": "lerobot-policy-mine"}})()]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    assert "lerobot-policy-mine: LeRobot finds names with underscores only" in findings({})["lerobot plug-ins"].said


def test_a_driver_that_torch_cannot_use_is_named(monkeypatch, tmp_path) -> None:
    driver = tmp_path / "version"
    monkeypatch.setattr(machine, "_DRIVER", driver)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.unusable_gpu() is None
    assert machine._gpu().startswith("none:")
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    with pytest.raises(RuntimeError, match=r"driver 550\.54\.15 is there, but torch .* sees no GPU: .*device=cpu"):
        machine._gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.unusable_gpu() is None
