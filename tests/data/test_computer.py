"""How much memory there is, and how much of it may be taken: of the computer, a container, or a job of a cluster."""

from pathlib import Path

import psutil
import pytest

from vla_tune.data.computer import computer_memory, spare_memory

GIB = 2**30


def written(root: Path, told: str, groups: dict[str, dict[str, str]]) -> Path:
    """What Linux would tell below `root`."""
    for path, files in {"proc/self": {"cgroup": told}, **groups}.items():
        (root / path).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (root / path / name).write_text(text)
    return root


def second(limit: str, used: int, files: int = 0) -> dict[str, str]:
    """A group of the second version."""
    stat = f"anon 7\ninactive_file {files}\nactive_file 0\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat}


@pytest.fixture(autouse=True)
def computer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 32 GiB, of which 20 are free."""
    there = psutil.virtual_memory()._replace(total=32 * GIB, available=20 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)


def test_a_quarter_of_the_computer_stays_free(tmp_path: Path):
    assert computer_memory(tmp_path) == 32 * GIB
    assert spare_memory(tmp_path) == (20 - 8) * GIB


def test_a_container_may_use_a_part_and_remembered_files_are_free(tmp_path: Path):
    root = written(tmp_path, "0::/\n", {"sys/fs/cgroup": second(f"{8 * GIB}", used=5 * GIB, files=2 * GIB)})
    assert computer_memory(root) == 8 * GIB
    assert spare_memory(root) == (8 - 3 - 2) * GIB


def test_a_group_without_a_limit_is_the_computer(tmp_path: Path):
    root = written(tmp_path, "0::/\n", {"sys/fs/cgroup": second("max", used=5 * GIB)})
    assert (computer_memory(root), spare_memory(root)) == (32 * GIB, 12 * GIB)


@pytest.mark.parametrize(("job", "step", "whole", "spare"), [("16", "max", 16, 16 - 6 - 4), ("max", "4", 4, 4 - 6 - 1)])
def test_a_job_is_limited_by_every_group_that_it_is_in(tmp_path: Path, job: str, step: str, whole: int, spare: int):
    limits = [said if said == "max" else f"{int(said) * GIB}" for said in (job, step)]
    groups = {"job": second(limits[0], used=6 * GIB), "job/step": second(limits[1], used=6 * GIB)}
    root = written(tmp_path, "0::/job/step\n", {f"sys/fs/cgroup/{path}": files for path, files in groups.items()})
    assert (computer_memory(root), spare_memory(root)) == (whole * GIB, spare * GIB)


def test_the_first_version_is_read_too(tmp_path: Path):
    stat = "inactive_file 1\nactive_file 1\ntotal_inactive_file 0\ntotal_active_file 0\n"
    files = {"memory.limit_in_bytes": f"{8 * GIB}\n", "memory.usage_in_bytes": f"{GIB}\n", "memory.stat": stat}
    root = written(tmp_path, "3:cpu,cpuacct:/docker/x\n9:memory:/docker/x\n0::/\n", {"sys/fs/cgroup/memory": files})
    assert (computer_memory(root), spare_memory(root)) == (8 * GIB, (8 - 1 - 2) * GIB)
