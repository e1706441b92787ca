"""What a measurement was made on."""

from pathlib import Path

import pytest

from vla_tune.bench import machine
from vla_tune.bench.machine import describe_machine

CPUINFO = """processor\t: 0
model name\t: A CPU: fast
flags\t\t: fpu avx2 avx512f_not amx_bf16

processor\t: 1
model name\t: another
"""


def test_the_first_processor_and_its_bfloat16_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    monkeypatch.setattr(machine, "_CPUINFO", path)
    described = describe_machine()
    assert described["cpu"] == "A CPU: fast"
    assert described["cpu_flags"] == ["avx2", "amx_bf16"]


def test_a_system_without_the_list_still_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "absent")
    described = describe_machine()
    assert described["cpu"]
    assert described["cpu_flags"] == []
