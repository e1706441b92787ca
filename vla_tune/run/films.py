"""Films of a simulated robot under the controller: what it saw at every tick."""

from collections.abc import Collection
from pathlib import Path

from vla_tune.control.log import Tick
from vla_tune.control.robot import Robot, Seen
from vla_tune.control.simulated import SimulatedRobot
from vla_tune.evaluation.video import picture, write_video

FILMS = "films"


class Films:
    """Writes `episode_<number>_<success|failure>.mp4` when an episode ends (a `TickLog`).

    Its pictures are kept in memory until then, so a real robot is not filmed: the dataset has its pictures.
    """

    def __init__(self, folder: Path, episodes: Collection[int], robot: Robot) -> None:
        self._folder, self._episodes, self._robot = folder, episodes, robot
        self._episode, self._seen = 0, list[tuple[Tick, Seen]]()

    def add(self, tick: Tick, seen: Seen) -> None:
        """Keeps it."""
        if isinstance(self._robot, SimulatedRobot) and self._episode in self._episodes:
            self._seen.append((tick, seen))

    def end_episode(self) -> None:
        """Writes the film."""
        if self._seen and isinstance(self._robot, SimulatedRobot):
            success = self._robot.success
            name = f"episode_{self._episode:03d}_{'success' if success else 'failure'}.mp4"
            frames = [
                picture(seen.observation, caption=f"tick {tick.tick}  {tick.state}", success=success) for tick, seen in self._seen
            ]
            write_video(self._folder / name, frames, frames_per_second=self._robot.hz)
        self._episode, self._seen = self._episode + 1, []

    def close(self) -> None:
        """Nothing: a film is whole or not there."""
