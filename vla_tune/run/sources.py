"""Sources of data that a run's folder names: read where they lie, and recorded again only where that is harmless."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_RECORDING = ("vla_tune.record.source.Recorded", "vla_tune.record.source.Played")
"""By experts of ours."""
_BY_AN_EXPERT = "vla_tune.record.source.Demonstrated"
"""By an environment and an expert that a run's folder does not choose."""
_MOST_RECORDED = 100_000
"""Episodes or frames."""


def harmless(sources: Sequence[Any], path: Path) -> list[Any]:
    """The sources that the configuration at `path` has; what somebody's expert recorded is a folder.

    Raises:
        ValueError: one is not there, and would be recorded above the working folder, without end, or by somebody's code.
    """
    return [_harmless(source, path) for source in sources]


def _harmless(source: Any, path: Path) -> Any:
    if not isinstance(source, dict) or source.get("_target_") not in (*_RECORDING, _BY_AN_EXPERT):
        return source
    folder = Path(str(source.get("folder")))
    if source["_target_"] == _BY_AN_EXPERT:
        return _as_folder(folder, path)
    if not folder.is_dir():
        _check_recording(folder, max(_number(source.get(name)) for name in ("episodes", "frames")), path)
    return source


def _as_folder(folder: Path, path: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(
            f"{path}: its data are not there ({str(folder)[:200]}); an expert recorded them, which a run's folder does not ask "
            "again: record them (scripts/record.py), or copy them there."
        )
    return {"_target_": "vla_tune.data.sources.Local", "folder": str(folder)}


def _check_recording(folder: Path, many: int, path: Path) -> None:
    """Demonstrations that are not there yet are written where the configuration says: not anywhere, and not without end."""
    if not folder.resolve().is_relative_to(Path.cwd()) or many > _MOST_RECORDED:
        raise ValueError(
            f"{path}: its data are not there and would be recorded now, {many} into {folder}. A run's folder may "
            f"ask for at most {_MOST_RECORDED} below the working folder: record them (scripts/record.py), or copy them there."
        )


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
