from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.mixture import Mixture
from vla_tune.data.sources import Data, Hub, Local, Source, load_demonstrations
from vla_tune.schema import Embodiment, dimension_names, to_record

CHUNKS = ChunksByTimestamp(2)


def loaded(
    body: Embodiment,
    sources: list[Source],
    weights: list[float],
    *,
    held_out: float = 0.25,
    seed: int = 0,
    demonstrations: int | None = None,
) -> Data:
    parts: dict[str, Any] = {"embodiment": to_record(body), "sources": sources, "weights": weights, "chunks": CHUNKS}
    return load_demonstrations(**parts, held_out=held_out, seed=seed, demonstrations=demonstrations)


def test_a_folder_is_a_source(body: Embodiment, image_folder: Path):
    source = Local(str(image_folder))
    assert isinstance(source, Source)
    assert isinstance(Hub("someone/something"), Source)
    opened = source.open(body, CHUNKS)
    assert len(opened) == 16
    assert opened[0]["actions"].shape == (2, 4)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Local("nowhere").open(body, CHUNKS)


def test_a_repository_is_pinned_and_downloaded_by_lerobot(body: Embodiment, image_folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def download(repo_id: str, *, episodes: list[int] | None, revision: str | None, video_backend: str) -> SimpleNamespace:
        asked.append((repo_id, episodes, revision))
        return SimpleNamespace(root=image_folder)

    monkeypatch.setattr("lerobot.datasets.lerobot_dataset.LeRobotDataset", download)
    opened = Hub("someone/something", revision="0123abc").open(body, CHUNKS)
    assert asked == [("someone/something", None, "0123abc")]
    assert len(opened) == len(Local(str(image_folder)).open(body, CHUNKS))


def test_fewer_demonstrations_are_some_of_more_beside_the_same_held_out_ones(body: Embodiment, image_folder: Path):
    whole = loaded(body, [Local(str(image_folder))], [1.0])
    before: set[int] = set()
    for count in (1, 2, 3):
        data = loaded(body, [Local(str(image_folder))], [1.0], demonstrations=count)
        assert isinstance(data.training, Demonstrations)
        assert len(data.training.episodes) == data.statistics.num_trajectories == count
        assert before < set(data.training.episodes)
        assert data.validation.episodes == whole.validation.episodes
        before = set(data.training.episodes)
    with pytest.raises(ValueError, match="demonstrations=4: 3 episodes are there for training"):
        loaded(body, [Local(str(image_folder))], [1.0], demonstrations=4)


def test_held_out_episodes_are_learned_from_nowhere(body: Embodiment, image_folder: Path, recorded: list[list[dict]]):
    data = loaded(body, [Local(str(image_folder))], [1.0])
    training = data.training
    assert isinstance(training, Demonstrations)
    assert sorted([*training.episodes, *data.validation.episodes]) == [0, 1, 2, 3]
    assert len(data.validation.episodes) == 1
    own = np.concatenate([[frame[body.action_key] for frame in recorded[episode]] for episode in training.episodes])
    assert data.instructions == ("lift the red block", "touch the blue block")
    assert len(data.actions.chunks) == len(training)
    assert data.statistics.action.mean == pytest.approx(own.mean(axis=0), abs=1e-6)
    assert (data.statistics.num_trajectories, data.statistics.num_transitions) == (3, len(own))
    assert dimension_names(data.embodiment.action) == dimension_names(body.action), "that is how they were written"
    assert all(group.names for group in (*data.embodiment.state, *data.embodiment.action))
    seen = {sample["index"][0] for sample in (training[row] for row in range(len(training)))}
    assert seen == set(training.episodes)


def test_the_seed_chooses_what_is_held_out(body: Embodiment, image_folder: Path):
    source = Local(str(image_folder))
    held = [loaded(body, [source], [1.0], seed=seed).validation.episodes for seed in range(8)]
    assert held == [loaded(body, [source], [1.0], seed=seed).validation.episodes for seed in range(8)]
    assert len(set(held)) > 1


def test_two_sources_are_mixed_in_their_shares(body: Embodiment, image_folder: Path, video_folder: Path):
    data = loaded(body, [Local(str(image_folder)), Local(str(video_folder))], [0.75, 0.25])
    mixture = data.training
    assert isinstance(mixture, Mixture)
    first, second = mixture.datasets
    assert isinstance(first, Demonstrations)
    assert isinstance(second, Demonstrations)
    origins = [mixture.origin(index)[0] for index in range(len(mixture))]
    assert origins.count(0) == len(first)
    assert origins.count(1) == round(len(first) / 3)
    assert data.validation.root == image_folder, "of the first source"
    assert data.statistics.dataset == "pictures+videos"
    assert data.statistics.num_transitions == len(first) + len(second) == len(data.actions.chunks)


def test_mistakes_are_named(body: Embodiment, image_folder: Path):
    source = Local(str(image_folder))
    with pytest.raises(ValueError, match="weight"):
        loaded(body, [source, source], [1.0])
    with pytest.raises(ValueError, match="hold out"):
        loaded(body, [source], [1.0], held_out=0.0)
    record = to_record(body)
    del record["control_hz"]
    with pytest.raises(ValueError, match="control_hz"):
        load_demonstrations(embodiment=record, sources=[source], weights=[1.0], chunks=CHUNKS, held_out=0.25, seed=0)
    other = to_record(body) | {"control_hz": 20}
    with pytest.raises(ValueError, match="20 Hz"):
        load_demonstrations(embodiment=other, sources=[source], weights=[1.0], chunks=CHUNKS, held_out=0.25, seed=0)


def test_episodes_are_chosen_and_left_out(body: Embodiment, image_folder: Path):
    chosen = Local(str(image_folder), episodes=[3, 0, 1], exclude=[1])
    assert chosen.open(body, CHUNKS).episodes == (0, 3)
    assert Local(str(image_folder), exclude=[0, 2]).open(body, CHUNKS).episodes == (1, 3)
    with pytest.raises(ValueError, match=r"has no episodes \[9\]: it has 0\.\.3"):
        Local(str(image_folder), exclude=[9]).open(body, CHUNKS)
    with pytest.raises(ValueError, match=r"no episode of .* is selected"):
        Local(str(image_folder), exclude=[0, 1, 2, 3]).open(body, CHUNKS)


def test_a_dataset_of_the_hub_that_cannot_be_fetched_is_named(body: Embodiment, monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service not known\nand forty lines more")

    monkeypatch.setattr("lerobot.datasets.lerobot_dataset.LeRobotDataset", unreachable)
    with pytest.raises(OSError, match=r"'nobody/nothing' cannot be fetched \(Name or .*HF_HUB_OFFLINE=1.*data=folder") as caught:
        Hub("nobody/nothing").open(body, CHUNKS)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
