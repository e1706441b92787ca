"""The doctor: what is broken is named with a remedy."""

import importlib.metadata

import pytest

from vla_tune.check import machine
from vla_tune.check.machine import Doctor
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
        ("3.0.0rc1", ">=3,<4", False),
    ],
)
def test_ranges(version: str, tested: str, fits: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda name: version)
    found = findings({"any": tested})["versions"]
    assert found.passed is fits
    assert fits or f"any {version} (tested {tested})" in found.said


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


MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Mar  5 22:23:56 UTC 2024\n"


def test_a_driver_that_torch_cannot_use_is_named(monkeypatch, tmp_path) -> None:
    driver = tmp_path / "version"
    monkeypatch.setattr(machine, "_DRIVER", driver)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.unusable_gpu() is None
    assert machine._gpu().startswith("none:")
    driver.write_text(MODULE.format("550.54.15"))
    with pytest.raises(RuntimeError, match=r"driver 550\.54\.15 is too old .*CUDA 13\.0 needs 580 .*--torch-backend=cu128"):
        machine._gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.unusable_gpu() is None


@pytest.mark.parametrize(
    ("driver", "cuda", "said"),
    [
        (
            "550.54.15",
            "13.0",
            "too old for torch 2.11.0: CUDA 13.0 needs 580 or newer. Update the driver, or install torch",
        ),
        ("470.82", "13.0", "needs 580 or newer. Update the driver."),
        ("470.82", "12.8", "needs 525 or newer. Update the driver."),
        ("580.65.06", "13.0", "fits torch 2.11.0 (CUDA 13.0), but no card is visible"),
        ("550.54.15", "12.8", "fits torch 2.11.0 (CUDA 12.8), but no card is visible"),
        (
            "570.1",
            None,
            "built without CUDA: install torch for it: uv pip install 'torch==2.11.*' torchvision --torch-b",
        ),
        ("580.65.06", None, "--torch-backend=cu130"),
        ("of an unknown version", "13.0", "no card is visible"),
    ],
)
def test_drivers_and_wheels(driver: str, cuda: str | None, said: str):
    """NVIDIA's CUDA compatibility guide, table 1: 13.x from 580 on, 12.x from 525 on."""
    assert said in machine.mismatch(driver, torch="2.11.0", cuda=cuda)


def test_a_driver_is_asked_for_its_version_where_no_file_tells_it(monkeypatch, tmp_path):
    asks = tmp_path / "nvidia-smi"
    asks.write_text("#!/bin/sh\necho 535.104.05\n")
    asks.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.installed_driver(tmp_path / "none") == "535.104.05"
    asks.write_text("#!/bin/sh\nexit 9\n")
    assert machine.installed_driver(tmp_path / "none") is None
    asks.unlink()
    (tmp_path / "version").write_text(MODULE.format("580.65.06"))
    assert machine.installed_driver(tmp_path / "version") == "580.65.06"
