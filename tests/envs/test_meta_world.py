"""Meta-World: its own physics and pictures, from a seed, whatever else runs in the process."""

import gymnasium
import numpy as np
import pytest

pytest.importorskip("metaworld")
from envs.meta_world import environment
from envs.meta_world.environment import MetaWorld
from envs.meta_world.expert import Scripted

pytestmark = pytest.mark.sim
FAST = {"place": (0.75, 0.075, 0.7), "shadow_map": 0, "samples": 0, "without": ("SHADOW", "REFLECTION")}
STALE = "drawer-open-v3"  # its class shows the drawer where it was before


def made(task: str = STALE, **arguments) -> MetaWorld:
    return MetaWorld(task, **(FAST | arguments))


def played(env: MetaWorld, seed: int, steps: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """What is shown from the seed on, and the last picture."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 4)).astype(np.float32)
    shown = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
    return np.stack(shown), env.render()


def succeeds(task: str, seed: int) -> bool:
    env, expert, told = made(task), Scripted(), False
    env.reset(seed=seed)
    for _ in range(150):
        told = told or env.step(expert(env))[-1]["success"]
    return told


def test_an_episode_follows_from_its_seed():
    env = made()
    first, picture = played(env, 7)
    other, _ = played(env, 8)
    again, same = played(env, 7)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(same, picture)
    assert not np.array_equal(other[0], first[0])


def test_it_steps_as_the_class_does_whether_it_is_drawn_or_not():
    env, rng = made(), np.random.default_rng(0)
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    own = ALL_V3_ENVIRONMENTS[STALE]()
    own._set_task_called, own._freeze_rand_vec, own.seeded_rand_vec, own._partially_observable = True, False, True, False
    del own.sawyer_observation_space
    own.seed(3)
    np.testing.assert_array_equal(env.reset(seed=3)[0], own.reset()[0])
    for _ in range(20):
        action = rng.uniform(-1, 1, 4).astype(np.float32)
        env.render()
        (shown, reward, *_, info), (expected, wanted, *_, said) = env.step(action), own.step(action)
        np.testing.assert_array_equal(shown, expected)
        assert (reward, info["success"]) == (wanted, said["success"])


def test_the_goal_is_seen():
    env = made("reach-v3")
    env.reset(seed=0)
    shown, *_ = env.step(np.zeros(4, np.float32))
    np.testing.assert_allclose(shown[-3:], env.simulation._target_pos)
    assert np.any(shown[-3:])


def test_several_environments_show_what_each_shows_alone():
    solo = [played(made(task), seed)[1] for task, seed in ((STALE, 0), ("button-press-v3", 1), (STALE, 2))]
    envs = [made(STALE), made("button-press-v3"), made(STALE)]
    for env, seed in zip(envs, (0, 1, 2), strict=True):
        played(env, seed)
    for env, picture in zip(envs, solo, strict=True):
        assert picture.std() > 20
        np.testing.assert_array_equal(env.render(), picture)
    envs[0].close()
    np.testing.assert_array_equal(envs[2].render(), solo[2])


def test_a_canvas_goes_with_the_last_environment_of_its_task():
    """A GPU has few contexts: fifty tasks are more than some have."""
    one, twin, other = made(STALE), made(STALE), made("button-press-v3")
    before = len(environment._canvases._owned)
    for env in (one, twin, other):
        env.reset(seed=0)
        env.render()
    assert len(environment._canvases._owned) == before + 2
    one.close()
    assert len(environment._canvases._owned) == before + 2
    twin.close()
    assert len(environment._canvases._owned) == before + 1
    other.close()
    assert len(environment._canvases._owned) == before
    with pytest.raises(RuntimeError, match="is closed"):
        one.render()


def test_the_first_picture_shows_things_where_they_are():
    env = made()
    env.reset(seed=5)
    first = env.render().astype(int)
    env.step(np.zeros(4, np.float32))
    assert np.abs(env.render() - first).mean() < 1.0, "the drawer jumped"


def test_its_picture_is_gymnasiums_own():
    env = made(width=128, height=96, place=None, shadow_map=4096, samples=4, without=())
    env.reset(seed=1)
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    renderer = MujocoRenderer(env.simulation.model, env.simulation.data, width=128, height=96, camera_name="corner2")
    wanted = renderer.render("rgb_array")
    renderer.close()
    assert np.abs(env.render().astype(int) - np.asarray(wanted)).mean() < 1.0


@pytest.mark.parametrize("task", [STALE, "button-press-v3"])
def test_the_scripted_policy_succeeds(task):
    assert all(succeeds(task, seed) for seed in range(3))


def test_experts_stay_in_the_range_of_actions():
    env, expert = made(), Scripted()
    env.reset(seed=0)
    actions = [expert(env) for _ in range(60) if env.step(expert(env))]
    assert np.abs(actions).max() == 1.0


def test_sentences_are_those_of_the_public_data():
    assert made().instruction == "Open a drawer"


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="no task 'drawer-open'; it has drawer-open-v3"):
        MetaWorld("drawer-open")
    with pytest.raises(ValueError, match="no camera 'front'; it has topview"):
        made(camera="front")
    with pytest.raises(ValueError, match="500 x 128 pixels: Meta-World draws at most 480 x 640"):
        made(height=500)
    with pytest.raises(ValueError, match="Tabletop is no task of Meta-World"):
        Scripted()(gymnasium.make("envs:vla_tune/Tabletop-v0", task="lift"))
