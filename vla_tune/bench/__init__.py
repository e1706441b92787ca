"""How fast it is: each suite measures one thing and returns rows."""

from vla_tune.bench.data_suite import DataSuite
from vla_tune.bench.machine import describe_machine
from vla_tune.bench.measure import Row, Suite, Together, Work, measure
from vla_tune.bench.rollout_suite import RolloutSuite
from vla_tune.bench.table import speed_table, write_report
from vla_tune.bench.train_suite import TrainSuite

__all__ = [
    "DataSuite",
    "RolloutSuite",
    "Row",
    "Suite",
    "Together",
    "TrainSuite",
    "Work",
    "describe_machine",
    "measure",
    "speed_table",
    "write_report",
]
