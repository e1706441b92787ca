from dataclasses import replace

import av
import numpy as np
import pytest

from vla_tune.evaluation import rollout
from vla_tune.evaluation.video import Film, picture, write_video
from vla_tune.execution import OpenLoop
from vla_tune.schema import Observation

GREEN, RED = (46, 160, 67), (209, 49, 49)


def frames_of(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def see(width: int = 64, instruction: str = "lift the red block") -> Observation:
    image = np.zeros((64, width, 3), np.uint8)
    image[:32] = (0, 0, 255)
    return Observation(images={"front": image}, state=np.zeros(4, np.float32), instruction=instruction)


def test_chosen_episodes_are_filmed_with_their_outcome(line, walker, body, tmp_path):
    film = Film(tmp_path, {0, 3}, frames_per_second=10.0)
    records = rollout(
        walker, line, suite="s", task="walk", episodes=5, seed=0, embodiment=body, execution=OpenLoop(), num_envs=2, watcher=film
    )
    outcomes = {index: "success" if records[index].success else "failure" for index in (0, 3)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"walk_{index:03d}_{outcomes[index]}.mp4" for index in (0, 3)]
    for index, outcome in outcomes.items():
        frames = frames_of(tmp_path / f"walk_{index:03d}_{outcome}.mp4")
        assert len(frames) == records[index].steps + 1 + 10  # the last one stands for a second
        border = GREEN if records[index].success else RED
        np.testing.assert_allclose(np.mean([frame[2:5, 2:-2].mean((0, 1)) for frame in frames], 0), border, atol=12)


def test_a_film_plays_everywhere(tmp_path):
    write_video(tmp_path / "film.mp4", [np.zeros((48, 64, 3), np.uint8)] * 20, frames_per_second=5.0)
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name in ("h264", "mpeg4")
        assert stream.pix_fmt == "yuv420p"
        assert float(stream.duration * stream.time_base) == pytest.approx(4.0)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_nothing_cannot_be_filmed(tmp_path):
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "film.mp4", [], frames_per_second=5.0)


@pytest.mark.parametrize("width", [63, 64])
def test_pictures_are_large_even_and_sharp(width):
    shown = picture(see(width), caption="lift", success=True)
    assert shown.shape[0] % 2 == shown.shape[1] % 2 == 0
    assert shown.shape[0] >= 384
    assert shown[0, 0].tolist() == list(GREEN)
    inner = shown[-8 - 384 : -8, 8 : 8 + 6 * width] if shown.shape[0] % 2 == 0 else shown
    assert set(map(tuple, inner.reshape(-1, 3).tolist())) == {(0, 0, 0), (0, 0, 255)}  # no colour in between
    assert picture(see(width), caption="lift", success=False)[0, 0].tolist() == list(RED)


def test_the_instruction_is_on_the_picture_and_long_ones_are_wrapped():
    short, other = (picture(see(instruction=text), caption="lift", success=True) for text in ("lift it", "push it"))
    assert (short != other).any()
    long = picture(see(instruction="lift the red block and " * 5), caption="lift", success=True)
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0]


def test_cameras_stand_side_by_side():
    both = replace(see(), images={"front": see().images["front"], "wrist": see().images["front"]})
    assert picture(both, caption="", success=True).shape[1] == 2 * 384 + 16
