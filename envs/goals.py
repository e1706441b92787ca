"""What can be asked for on the tabletop: tasks, sentences, when a goal makes sense and when it is reached."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from envs.scene import CUBE_EDGE, CUBE_HALF, CUBES, Scene

DIRECTIONS = {
    "push_left": np.array([-1.0, 0.0]),
    "push_right": np.array([1.0, 0.0]),
    "push_forward": np.array([0.0, 1.0]),
    "push_back": np.array([0.0, -1.0]),
}
PHRASES = {
    "push_left": ("push the {c} block left", "slide the {c} block to the left", "move the {c} block left"),
    "push_right": ("push the {c} block right", "slide the {c} block to the right", "move the {c} block right"),
    "push_forward": ("push the {c} block forward", "slide the {c} block forward", "move the {c} block forward"),
    "push_back": ("push the {c} block back", "slide the {c} block back", "move the {c} block back"),
    "touch": ("touch the {c} block", "reach the {c} block"),
    "lift": ("lift the {c} block", "pick up the {c} block"),
    "stack": ("stack the {c} block on the {o} block", "put the {c} block on top of the {o} block"),
    "place_left_of": ("place the {c} block left of the {o} block", "put the {c} block to the left of the {o} block"),
}
TASKS = tuple(PHRASES)
BESIDE = np.array([-0.08, 0.0])  # m, from the reference to the middle of the region "left of"
REACH = np.array([0.21, 0.19])  # m, |x| and |y| of the cubes that the tool can work on from every side
_STILL = 0.05  # m a bystander may move, m/s below which a cube counts as resting


@dataclass(frozen=True)
class Goal:
    """A task and the cubes it is about.

    Attributes:
        task: One of `TASKS`.
        target: Index of the cube to act on.
        reference: Index of the other cube that the sentence names, if it names one.
    """

    task: str
    target: int
    reference: int | None = None


def check_task(task: str) -> str:
    """The task, if there is such a task.

    Raises:
        ValueError: If not, naming the choices.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    return task


def goals_of(task: str) -> list[Goal]:
    """All goals of a task, sensible or not."""
    if "{o}" not in PHRASES[check_task(task)][0]:
        return [Goal(task, target) for target in range(CUBES)]
    return [Goal(task, a, b) for a in range(CUBES) for b in range(CUBES) if a != b]


def draw_goal(scene: Scene, tasks: tuple[str, ...], rng: np.random.Generator) -> Goal | None:
    """A goal that makes sense now.

    Args:
        scene: The present.
        tasks: Names of `TASKS` to choose from.
        rng: Draws uniformly among the tasks that have a feasible goal, then among that task's feasible goals.

    Returns:
        The goal, or None if nothing can be asked for.
    """
    feasible_goals = [[goal for goal in goals_of(task) if feasible(goal, scene)] for task in tasks]
    if not (choices := [goals for goals in feasible_goals if goals]):
        return None
    goals = choices[rng.integers(len(choices))]
    return goals[rng.integers(len(goals))]


def distractor(goal: Goal, rng: np.random.Generator) -> Goal:
    """The same task with another target."""
    others = [index for index in range(CUBES) if index not in (goal.target, goal.reference)]
    return replace(goal, target=others[rng.integers(len(others))])


def draw_phrase(task: str, rng: np.random.Generator) -> str:
    """One of the task's paraphrases, with places {c} for the target's and {o} for the reference's colour."""
    return PHRASES[task][rng.integers(len(PHRASES[task]))]


def fill(phrase: str, goal: Goal, colours: tuple[str, ...]) -> str:
    """The sentence that a phrase makes of a goal."""
    return phrase.format(c=colours[goal.target], o="" if goal.reference is None else colours[goal.reference])


def sentence(goal: Goal, colours: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of the English sentences for a goal."""
    return fill(draw_phrase(goal.task, rng), goal, colours)


def success(goal: Goal, scene: Scene, start: Float[np.ndarray, "3 3"]) -> bool:
    """Whether the goal is reached.

    Args:
        goal: What was asked for.
        scene: The present.
        start: The cubes' centres in m when it was asked, from `Scene.cubes`.
    """
    moved = np.linalg.norm((scene.cubes() - start)[:, :2], axis=1)
    if np.delete(moved, goal.target).max() > _STILL:
        return False
    match goal.task:
        case "touch":
            return bool(_touches(goal, scene) and moved.max() < 0.03)
        case "lift":
            return bool(scene.held() == goal.target and scene.cubes()[goal.target, 2] > CUBE_HALF + 0.04)
        case "stack" | "place_left_of":
            return arranged(goal, scene) and bool(moved[goal.reference] < 0.03)
        case _:
            along, across = _split(goal, (scene.cubes() - start)[goal.target])
            return bool(along > 0.07 and abs(across) < 0.04 and _on_table(scene)[goal.target])


def arranged(goal: Goal, scene: Scene) -> bool:
    """Whether the target rests, released, where "stack" or "place_left_of" wants it."""
    if scene.suction or scene.speeds()[goal.target] > _STILL or goal.reference is None:
        return False
    x, y, z = scene.cubes()[goal.target] - scene.cubes()[goal.reference]
    if goal.task == "stack":
        return bool(np.hypot(x, y) < 0.022 and abs(z - CUBE_EDGE) < 0.008)  # farther out it would fall
    return bool(-0.12 < x < -0.04 and abs(y) < 0.04 and _on_table(scene)[goal.target])


def spot(goal: Goal, scene: Scene) -> Float[np.ndarray, "3"]:
    """Where the centre of the target should come to rest for "stack" or "place_left_of", m."""
    assert goal.reference is not None
    reference = scene.cubes()[goal.reference]
    if goal.task == "stack":
        return np.array([*reference[:2], reference[2] + CUBE_EDGE])
    return np.array([*(reference[:2] + BESIDE), CUBE_HALF])


def feasible(goal: Goal, scene: Scene) -> bool:
    """Whether the goal is sensible from the present state, at the start or in the middle of an episode.

    The target must be within reach, uncovered, and standing on the table or held; its way and its destination must be
    free; and the goal must not be reached already. Another cube may be held: the experts put it down first.
    """
    cubes = scene.cubes()
    held = scene.held() == goal.target
    if _outside(cubes[goal.target]) or _covered(goal.target, scene) or not (held or _on_table(scene)[goal.target]):
        return False
    if success(goal, scene, cubes):
        return False
    match goal.task:
        case "touch" | "lift":
            return True
        case "stack" | "place_left_of":
            return _spot_free(goal, scene)
        case _:
            return _corridor_free(goal, scene)


def _corridor_free(goal: Goal, scene: Scene) -> bool:
    """Whether the tool fits behind the target and the target finds nothing ahead, up to a destination within reach."""
    cubes = scene.cubes()
    if _outside(cubes[goal.target, :2] + 0.08 * DIRECTIONS[goal.task]):
        return False
    offsets = [_split(goal, cube - cubes[goal.target]) for cube in np.delete(cubes, goal.target, axis=0)]
    return not any(-0.10 < along < 0.15 and abs(across) < 0.055 for along, across in offsets)


def _spot_free(goal: Goal, scene: Scene) -> bool:
    """Whether the reference stands on the table with nothing on it, and its spot is within reach and clear of the third."""
    assert goal.reference is not None
    there, third = spot(goal, scene), np.delete(scene.cubes(), [goal.target, goal.reference], axis=0)
    standing = _on_table(scene)[goal.reference] and not _covered(goal.reference, scene)
    return bool(standing and not _outside(there) and np.linalg.norm((third - there)[:, :2], axis=1).min() > 0.065)


def _split(goal: Goal, offset: Float[np.ndarray, "3"]) -> tuple[float, float]:
    """The parts of an offset along and across the push, m."""
    x, y = DIRECTIONS[goal.task]
    return float(offset[:2] @ [x, y]), float(offset[:2] @ [-y, x])


def _touches(goal: Goal, scene: Scene) -> bool:
    """Whether the tip is at most 1 cm above the target's top, and its axis over the target or at its side (3.2 cm)."""
    x, y, z = scene.tool() - scene.cubes()[goal.target]
    return bool(np.hypot(x, y) < 0.032 and z < CUBE_HALF + 0.01)


def _on_table(scene: Scene) -> Bool[np.ndarray, "3"]:
    """Which cubes stand on the table."""
    return np.abs(scene.cubes()[:, 2] - CUBE_HALF) < 0.006


def _covered(cube: int, scene: Scene) -> bool:
    """Whether another cube is above this one."""
    offsets = np.delete(scene.cubes(), cube, axis=0) - scene.cubes()[cube]
    return bool(((np.linalg.norm(offsets[:, :2], axis=1) < CUBE_EDGE) & (offsets[:, 2] > 0.01)).any())


def _outside(point: np.ndarray) -> bool:
    """Whether a position (x, y) or (x, y, z) is too far out to work on it from every side."""
    return bool((np.abs(point[:2]) > REACH).any())
