"""Any gymnasium environment as `vla_tune.environment` wants it, by configuration alone (`docs/guides/environments.md`)."""

from vla_tune.translation.actions import Action, Clip, Constant, Gripper, GripperSwitch, LeftOut, Numbers, Refuse
from vla_tune.translation.changes import FlippedLeftRight, FlippedUpDown, RotationVector, Turned
from vla_tune.translation.interpreter import in_interpreter
from vla_tune.translation.keys import translated
from vla_tune.translation.makers import AnyTask, FromLeRobot, Registered, Tasks
from vla_tune.translation.moment import Moment
from vla_tune.translation.sources import Changed, FromAttribute, FromCall, FromInfo, FromObservation, Rendered, Sentences
from vla_tune.translation.starts import SeedCall, Settle, StatesInFile, StoredStarts
from vla_tune.translation.success import RewardAtLeast, Terminated, WhenInInfo
from vla_tune.translation.wrapper import Translated

__all__ = [
    "Action",
    "AnyTask",
    "Changed",
    "Clip",
    "Constant",
    "FlippedLeftRight",
    "FlippedUpDown",
    "FromAttribute",
    "FromCall",
    "FromInfo",
    "FromLeRobot",
    "FromObservation",
    "Gripper",
    "GripperSwitch",
    "LeftOut",
    "Moment",
    "Numbers",
    "Refuse",
    "Registered",
    "Rendered",
    "RewardAtLeast",
    "RotationVector",
    "SeedCall",
    "Sentences",
    "Settle",
    "StatesInFile",
    "StoredStarts",
    "Tasks",
    "Terminated",
    "Translated",
    "Turned",
    "WhenInInfo",
    "in_interpreter",
    "translated",
]
