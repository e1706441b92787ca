"""The robots that ship with the package are read strictly, and are called as LeRobot calls them."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vla_tune.schema import Embodiment, dimension_names, embodiment_from_record

CONF = Path(__file__).parents[2] / "conf"
SHIPPED = sorted(path.stem for path in (CONF / "embodiment").glob("*.yaml"))


def shipped(name: str) -> Embodiment:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF / "embodiment")):
        record = OmegaConf.to_container(compose(name), resolve=True)
    assert isinstance(record, dict)
    return embodiment_from_record({str(key): value for key, value in record.items()})


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_read_strictly(name: str):
    """An option that ends with the size of its pictures is the same robot."""
    assert shipped(name).name == re.sub(r"_\d+$", "", name)


def test_so101_is_as_the_installed_lerobot_drives_it():
    spec = find_spec("lerobot.robots")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "so_follower"
    driver, options = (folder / "so_follower.py").read_text(), (folder / "config_so_follower.py").read_text()
    motors = dict(re.findall(r'"(\w+)": Motor\(\d, "\w+", (?:MotorNormMode\.)?(\w+)\)', driver))
    body = shipped("so101")
    assert dimension_names(body.action) == dimension_names(body.state) == [f"{motor}.pos" for motor in motors]
    assert "use_degrees: bool = True" in options
    assert body.action_units == ("deg",) * 5 + ("%",)
    assert list(motors.values()) == ["norm_mode_body"] * 5 + ["RANGE_0_100"]


def test_aloha_has_two_arms_and_three_cameras():
    body = shipped("aloha")
    assert (body.state_dimension, body.action_dimension, body.control_hz) == (14, 14, 50)
    assert [camera.role for camera in body.cameras] == ["top", "left_wrist", "right_wrist"]
    left, right = dimension_names(body.action)[:7], dimension_names(body.action)[7:]
    assert [name.removeprefix("left_") for name in left] == [name.removeprefix("right_") for name in right]
    assert left[0] == "left_waist"
    assert body.action_units == (("rad",) * 6 + ("1",)) * 2
