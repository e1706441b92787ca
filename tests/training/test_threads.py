import os

import pytest
import torch

from vla_tune.training import threads
from vla_tune.training.threads import sensible_threads, set_threads


@pytest.mark.parametrize("load", [0.1, 1.0, 9.0])
@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [
        (2, "max 100000", 2),
        (64, "max 100000", 64),
        (64, "400000 100000", 4),  # a container that may use four of them
        (8, "50000 100000", 1),
        (8, None, 8),  # no cgroup
    ],
)
def test_cores_count_and_not_the_load(cores: int, load: float, quota: str | None, expected: int, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(threads, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert sensible_threads() == expected


def test_the_users_choice_stands(monkeypatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    assert set_threads(before + 1) == before == torch.get_num_threads()


def test_threads_are_set_without_one(monkeypatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        assert set_threads(before + 1) == before + 1 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
