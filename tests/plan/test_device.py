from types import SimpleNamespace

import pytest
import torch

from vla_tune.plan import Device, device_here

KNOWN = {"l4": Device(name="NVIDIA L4", memory_gib=24.0, bandwidth=300e9, peak_flops=121e12)}


def test_without_a_gpu_it_is_the_computers_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = device_here(KNOWN)
    assert device.kind == "cpu"
    assert device.memory_gib > 1
    assert device.peak_flops is None
    assert "no GPU here" in device.name


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA L4", 121e12), ("NVIDIA L40S", None)])
def test_a_known_gpu_has_its_speeds(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name=name, total_memory=22 * 2**30))
    device = device_here(KNOWN)
    assert (device.name, device.memory_gib, device.peak_flops) == (name, 22.0, peak)


def test_a_run_on_the_cpu_has_the_computers_memory_beside_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device = device_here(KNOWN, device="cpu")
    assert (device.kind, device.name) == ("cpu", "this computer's CPU")


def test_a_gpu_is_not_all_for_tensors():
    usable = KNOWN["l4"].usable_bytes / 2**30
    assert 22 < usable < 23.5
