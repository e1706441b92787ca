"""The contract between training and the robot: typed, frozen records, what acts by it, and the axis legend.

Axis names in every public signature: B batch, V camera views, C channels, H W pixels, L text tokens, T horizon, A action dims,
S state dimensions, K action codes per chunk, D model width, N observations.

This package needs numpy and jaxtyping only: a robot computer reads the contract without torch.
"""

from vla_tune.schema.augmentation import Augmentation, check_augmentation
from vla_tune.schema.body import (
    UNITS,
    Camera,
    Embodiment,
    Gripper,
    Group,
    Normalization,
    Observation,
    dimension_names,
    placed,
    same_rate,
    without_names,
)
from vla_tune.schema.column import ColumnStatistics, Statistics
from vla_tune.schema.contract import CONTRACT_FILE, CONTRACT_VERSION, BaseWeights, Contract, contract_from_record
from vla_tune.schema.json_text import json_value, read_json, read_object
from vla_tune.schema.policy import Policy, WatchedPolicy
from vla_tune.schema.reading import embodiment_from_record, statistics_from_record
from vla_tune.schema.sense import bounded, check_contract
from vla_tune.schema.strict import YOUNGER, content_hash, structured, to_record
from vla_tune.schema.units import Conversion, conversion, in_units
from vla_tune.schema.versions import embodiment_of_today
from vla_tune.schema.writing import appearing, write_json, write_whole

__all__ = [
    "CONTRACT_FILE",
    "CONTRACT_VERSION",
    "UNITS",
    "YOUNGER",
    "Augmentation",
    "BaseWeights",
    "Camera",
    "ColumnStatistics",
    "Contract",
    "Conversion",
    "Embodiment",
    "Gripper",
    "Group",
    "Normalization",
    "Observation",
    "Policy",
    "Statistics",
    "WatchedPolicy",
    "appearing",
    "bounded",
    "check_augmentation",
    "check_contract",
    "content_hash",
    "contract_from_record",
    "conversion",
    "dimension_names",
    "embodiment_from_record",
    "embodiment_of_today",
    "in_units",
    "json_value",
    "placed",
    "read_json",
    "read_object",
    "same_rate",
    "statistics_from_record",
    "structured",
    "to_record",
    "without_names",
    "write_json",
    "write_whole",
]
