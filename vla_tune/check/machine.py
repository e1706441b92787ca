"""Whether this machine can do what the commands need; each answer names the remedy."""

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from packaging.specifiers import SpecifierSet

from vla_tune.check.finding import Finding

_DRIVER = Path("/proc/driver/nvidia/version")
_NEEDS = {"13": 580, "12": 525}
"""CUDA -> the oldest driver (NVIDIA's CUDA compatibility guide, table 1)."""
_INSTALL = (
    "install torch for it: uv pip install 'torch==2.11.*' torchvision --torch-backend={} --reinstall-package torch "
    "--reinstall-package torchvision, and export UV_NO_SYNC=1, or uv run takes it away again"
)
NO_GPU = "Torch sees no GPU here."


@dataclass(frozen=True)
class Doctor:
    """Examines the machine.

    Args:
        requirements: Distribution -> the range that was tested, as `>=1.2,<2`.
    """

    requirements: Mapping[str, str]

    def examine(self) -> Iterator[Finding]:
        """One finding after the other; a probe that raises has failed with what it raised."""
        probes: dict[str, Callable[[], str]] = {
            "python": _python,
            "versions": self._versions,
            "gpu": _gpu,
            "4-bit kernel": _four_bits,
            "rendering": _rendering,
            "video": _video,
            "lerobot plug-ins": _plugins,
            "disk": _disk,
        }
        for name, probe in probes.items():
            try:
                yield Finding(name, True, probe())
            except Exception as error:  # whatever is wrong with the machine is what was asked
                yield Finding(name, False, " ".join(str(error).split()) or type(error).__name__)

    def _versions(self) -> str:
        wrong = []
        for name, tested in self.requirements.items():
            try:
                found = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                wrong.append(f"{name} is missing")
                continue
            if not SpecifierSet(tested).contains(found, prereleases=True):
                wrong.append(f"{name} {found} (tested {tested})")
        if wrong:
            raise RuntimeError(f"{'; '.join(wrong)}: uv sync installs what was tested.")
        return f"{len(self.requirements)} libraries in their tested ranges"


def _python() -> str:
    if sys.version_info[:2] != (3, 12):
        raise RuntimeError(f"Python {sys.version.split()[0]}: 3.12 was tested (.python-version; uv takes it).")
    return sys.version.split()[0]


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        if (reason := unusable_gpu()) is not None:
            raise RuntimeError(reason)
        return "none: training and inference run on the CPU, which is enough for the tiny default"
    free, total = torch.cuda.mem_get_info()
    value = (
        torch.ones(64, 64, device="cuda", dtype=torch.bfloat16) @ torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
    ).sum()
    if value.item() != 64**3:
        raise RuntimeError("a matrix product in bfloat16 came out wrong: the driver or the card is broken.")
    return f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, bfloat16 works"


def unusable_gpu() -> str | None:
    """Why torch takes the CPU although the machine has an NVIDIA driver; None where it has none, or torch computes on it."""
    import torch

    if torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    driver = installed_driver(_DRIVER)
    return None if driver is None else mismatch(driver, torch=torch.__version__, cuda=torch.version.cuda)


def installed_driver(file: Path) -> str | None:
    """The version of NVIDIA's driver, which Linux tells in `file` and `nvidia-smi` where it is installed; None without one."""
    if file.is_file():
        return _driver_in(file.read_text())
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return _driver_in(asked.stdout) if asked.returncode == 0 else None


def _driver_in(text: str) -> str:
    found = re.search(r"\b\d{3}(\.\d+)+", text)
    return found[0] if found else "of an unknown version"


def mismatch(driver: str, *, torch: str, cuda: str | None) -> str:
    """Why a torch for CUDA `cuda` (None: for none) sees no GPU with this driver, and what to do."""
    if cuda is None:
        return f"NVIDIA's driver {driver} is there, but torch {torch} is built without CUDA: {_INSTALL.format(_wheels(driver))}."
    have, need = _major(driver), next((need for major, need in _NEEDS.items() if cuda.startswith(f"{major}.")), None)
    if need is None or not have or have >= (need,):
        return f"NVIDIA's driver {driver} fits torch {torch} (CUDA {cuda}), but no card is visible: does nvidia-smi list one?"
    older = f", or {_INSTALL.format(_wheels(driver))}" if have >= (_NEEDS["12"],) else ""
    return f"NVIDIA's driver {driver} is too old for torch {torch}: CUDA {cuda} needs {need} or newer. Update the driver{older}."


def _major(driver: str) -> tuple[int, ...]:
    """The first number of a driver's version; none where it is no version."""
    found = re.match(r"\d+", driver)
    return () if found is None else (int(found[0]),)


def _wheels(driver: str) -> str:
    """What uv calls the newest wheels of this torch that a driver can run."""
    have = _major(driver)
    return "cu130" if have >= (_NEEDS["13"],) else "cu128"


def _four_bits() -> str:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64).to(torch.bfloat16)
    quantized, state = quantize_4bit(weight, quant_type="nf4")
    error = (dequantize_4bit(quantized, state).float() - weight.float()).abs().max().item()
    if error > 0.2:
        raise RuntimeError(
            f"NF4 changes a weight by {error:.2f}: bitsandbytes does not fit this card; uv sync, or another version."
        )
    return f"NF4 on {device}, largest change {error:.3f} of 1"


def _rendering() -> str:
    """In a process of its own: a broken driver ends the process that tries it."""
    code = (
        'import mujoco; m = mujoco.MjModel.from_xml_string(\'<mujoco><worldbody><light pos="0 0 2"/>'
        '<geom size=".3"/></worldbody></mujoco>\'); d = mujoco.MjData(m); mujoco.mj_forward(m, d); '
        "r = mujoco.Renderer(m, 32, 32); r.update_scene(d); print(int(r.render().std() > 1))"
    )
    backend = os.environ.get("MUJOCO_GL", "egl")
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "MUJOCO_GL": backend},
        check=False,
    )
    if run.stdout.strip() != "1":
        last = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
        raise RuntimeError(f"MUJOCO_GL={backend} draws nothing ({last}): install libegl1 and libegl-mesa0, or the GPU's driver.")
    return f"MUJOCO_GL={backend} draws"


def _video() -> str:
    """A film written and read back by the library that reads datasets."""
    import av

    with tempfile.TemporaryDirectory() as folder:
        path, shades = str(Path(folder) / "film.mp4"), []
        with av.open(path, "w") as film:
            stream = film.add_stream("libx264", rate=10)
            stream.width = stream.height = 64
            for shade in (0, 255):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
                film.mux(stream.encode(picture))
            film.mux(stream.encode())
        with av.open(path) as film:
            shades = [frame.to_ndarray(format="rgb24").mean() for frame in film.decode(video=0)]
    if len(shades) != 2 or not shades[0] < 16 < 240 < shades[1]:
        raise RuntimeError(f"a film of a dark and a bright picture came back as {shades}: uv sync installs an av that works.")
    return f"h264 written and read (av {av.__version__})"


def _plugins() -> str:
    """LeRobot finds a distribution only by its name, and swallows what its import raises."""
    prefixes = ("lerobot_policy_", "lerobot_robot_", "lerobot_camera_", "lerobot_env_", "lerobot_teleoperator_")
    names = {str(found.metadata["Name"]) for found in importlib.metadata.distributions()}
    hyphened = sorted(name for name in names if name.startswith(tuple(prefix.replace("_", "-") for prefix in prefixes)))
    if hyphened:
        raise RuntimeError(f"{', '.join(hyphened)}: LeRobot finds names with underscores only; build them with such a name.")
    found = sorted(name for name in names if name.startswith(prefixes))
    for name in found:
        importlib.import_module(name)
    return ", ".join(found) or "none installed"


def _disk() -> str:
    status = os.statvfs(".")
    free = status.f_bavail * status.f_frsize / 2**30
    if free < 2:
        raise RuntimeError(f"{free:.1f} GiB free here: a run of the tiny default needs about 1, a merged 7B about 15.")
    return f"{free:.0f} GiB free here"
