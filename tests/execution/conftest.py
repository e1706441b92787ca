"""A robot of two joints and a gripper."""

import pytest

from vla_tune.schema import Embodiment, Gripper, Group


def group(dimension: int, *, rotation="none", representation="delta", gripper=None) -> Group:
    return Group(
        name="part",
        dimension=dimension,
        unit="m",
        frame="table",
        representation=representation,
        rotation=rotation,
        normalization="quantile",
        gripper=gripper,
    )


def embodiment(*groups: Group) -> Embodiment:
    return Embodiment(name="arm", cameras=(), state_key="state", state=(), action_key="action", action=groups, control_hz=10.0)


@pytest.fixture(scope="session")
def body() -> Embodiment:
    return embodiment(group(2), group(1, gripper=Gripper(engaged=1.0, released=0.0)))


@pytest.fixture(scope="session")
def turning():
    """Makes a robot whose three numbers are a rotation."""

    def make(rotation: str, representation: str) -> Embodiment:
        return embodiment(group(3, rotation=rotation, representation=representation))

    return make
