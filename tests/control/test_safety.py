"""No command leaves the limits, whatever is asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_tune.control.limits import Limits
from vla_tune.control.safety import Safety, UnsafeError
from vla_tune.schema import Embodiment

TARGETS = arrays(np.float64, st.tuples(st.integers(3, 60), st.just(3)), elements=st.floats(-5, 5, width=32))


HZ = 50.0


@pytest.fixture(scope="session")
def safety(body, limits):
    """Makes a filter of the arm, at rest at zero."""

    def make() -> Safety:
        made = Safety(Limits(limits).axes(body), hz=HZ)
        made.seed(np.zeros(3))
        return made

    return make


@settings(max_examples=60, deadline=None)
@given(TARGETS, st.integers(0, 30))
def test_every_limit_holds_for_any_targets(safety, assert_within_limits, targets, brake_after):
    made = safety()
    commands = [made.command[:2].copy()]
    for index, target in enumerate(targets):
        filtered = made.filter(target) if index != brake_after else made.brake()
        commands.append(filtered.command[:2].copy())
        assert 0 <= filtered.command[2] <= 1
    commands.extend(made.brake().command[:2].copy() for _ in range(100))
    assert not made.moving
    assert_within_limits(np.array(commands))


def test_what_is_within_the_limits_arrives_and_is_not_called_clamped(safety):
    made = safety()
    filtered = made.filter(np.array([1e-4, 0.0, 1.0]))
    assert np.allclose(filtered.command, [1e-4, 0, 1])
    assert not filtered.clamped.any()
    filtered = made.filter(np.array([1.0, 0.0, 1.7]))
    assert filtered.clamped.tolist() == [True, False, True]
    assert filtered.command[2] == 1.0


def test_it_arrives_in_the_end_and_rests_there(safety):
    made = safety()
    for _ in range(200):
        made.filter(np.array([1.0, 7.0, 0.0]))
    assert np.allclose(made.command[:2], [1.0, 1.0])
    assert not made.moving


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_changes_nothing(safety, bad):
    made = safety()
    made.filter(np.array([0.01, 0.0, 0.0]))
    before = made.command
    with pytest.raises(UnsafeError, match="a set-point is not finite"):
        made.filter(np.array([bad, 0.0, 0.0]))
    assert made.command is before
    assert np.abs(made.brake().command - before).max() < 0.05
    with pytest.raises(UnsafeError, match="not finite"):
        made.seed(np.array([bad, 0.0, 0.0]))


def test_a_robot_outside_its_box_is_led_back_in_steps(safety):
    made = safety()
    made.seed(np.array([0.0, 1.5, 0.0]))
    heights = [made.filter(np.array([0.0, 1.5, 0.0])).command[1] for _ in range(200)]
    assert np.abs(np.diff(heights)).max() <= 0.05
    assert heights[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: {}, "limits are missing for joints. A robot is not moved without"),
        (lambda given: given | {"elbow": given["joints"]}, "limits for elbow, but the continuous action groups are"),
        (lambda given: {"joints": given["joints"] | {"step": [0.1, 0.1, 0.1]}}, r"step=.* must be one number, or 2"),
        (lambda given: {"joints": given["joints"] | {"jerk": 0.0}}, r"jerk=0.0 must be finite, above 0"),
        (lambda given: {"joints": given["joints"] | {"low": 3.0}}, r"low .* must be below high"),
        (lambda given: {"joints": {"low": 0.0}}, r"limits of joints: .* are needed, given are"),
    ],
)
def test_missing_and_impossible_limits_are_named(body, limits, change, message):
    with pytest.raises(ValueError, match=message):
        Limits(change(limits)).axes(body)


def test_absolute_rotations_cannot_be_limited(group_of, limits):
    wrist = group_of("wrist", 4, rotation="quaternion_xyzw")
    turned = Embodiment(name="arm", cameras=(), state_key="s", state=(), action_key="a", action=(wrist,), control_hz=10.0)
    with pytest.raises(ValueError, match="absolute rotations as quaternion_xyzw, which cannot be limited"):
        Limits({"wrist": limits["joints"]}).axes(turned)
