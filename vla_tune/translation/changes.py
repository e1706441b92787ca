"""What becomes of a value on its way: pictures the right way up, rotations in the data's format."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Turned:
    """A picture turned by 180 degrees."""

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Rows and columns from their ends."""
        return np.ascontiguousarray(picture[::-1, ::-1])


@dataclass(frozen=True)
class FlippedUpDown:
    """A picture that an environment shows upside down, as OpenGL reads it."""

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Rows from the last."""
        return np.ascontiguousarray(picture[::-1])


@dataclass(frozen=True)
class FlippedLeftRight:
    """A mirrored picture."""

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Columns from the last."""
        return np.ascontiguousarray(picture[:, ::-1])


@dataclass(frozen=True, kw_only=True)
class RotationVector:
    """The rotation vector of a quaternion: its axis times its angle, in rad."""

    order: Literal["xyzw", "wxyz"]
    """Of the quaternion's numbers: `xyzw` in robosuite and scipy, `wxyz` in MuJoCo."""

    def __call__(self, quaternion: np.ndarray) -> Float[np.ndarray, "3"]:
        """Angles of 0 to 2 pi, as robosuite computes them: of a quaternion and its negative, which turn alike, the vectors differ.

        Raises:
            ValueError: it is no quaternion of length 1.
        """
        numbers = np.asarray(quaternion, np.float64)
        if numbers.shape != (4,) or not np.isclose(np.linalg.norm(numbers), 1.0, atol=1e-3):
            raise ValueError(f"{numbers.tolist()} is no quaternion: it has 4 numbers and the length 1.")
        axis, cosine = (numbers[:3], numbers[3]) if self.order == "xyzw" else (numbers[1:], numbers[0])
        sine = np.linalg.norm(axis)
        return axis * (2 * np.arctan2(sine, cosine) / sine if sine > 1e-12 else 2.0)
