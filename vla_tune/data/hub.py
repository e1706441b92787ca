"""Datasets on the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from vla_tune.data.videos import video_backend


def downloaded(repo_id: str, *, revision: str | None, episodes: Sequence[int] | None) -> Path:
    """The folder of a dataset, downloaded by LeRobot unless it was before.

    Raises:
        OSError: it is not there and cannot be downloaded.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    try:
        wanted = None if episodes is None else list(episodes)
        return Path(LeRobotDataset(repo_id, episodes=wanted, revision=revision, video_backend=video_backend()).root)
    except Exception as error:  # the hub's client, its transport and LeRobot have exceptions of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(
            f"dataset {repo_id!r} cannot be fetched ({reason}): check its name, the revision and the network; if it was downloaded "
            "before, set HF_HUB_OFFLINE=1; or give a folder that holds it with data=folder data.sources.0.folder=<folder>."
        ) from None
