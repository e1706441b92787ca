"""What a server counts, for Prometheus."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from vla_tune.schema import ColumnStatistics, Contract
from vla_tune.serving.worker import Reply

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10)

_WAITING = 64
"""Replies that wait to be counted."""


@dataclass(frozen=True, eq=False)
class Metrics:
    """In a registry of its own, so that two servers of one process do not share it."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        own: dict[str, Any] = {"registry": self.registry}
        made = {
            "latency": Histogram("vla_inference_seconds", "A forward pass.", buckets=_SECONDS, **own),
            "wait": Histogram("vla_queue_seconds", "From an observation's arrival to its forward pass.", buckets=_SECONDS, **own),
            "batch": Histogram("vla_batch_rows", "Observations that shared a forward pass.", buckets=(1, 2, 4, 8, 16, 32), **own),
            "waiting": Gauge("vla_queue_length", "Observations that wait.", **own),
            "clients": Gauge("vla_clients", "Open connections.", **own),
            "rejected": Counter("vla_rejected", "Requests without actions, by reason.", ["reason"], **own),
            "outside": Counter("vla_out_of_range_actions", "Action values outside the range of the training data.", **own),
        }
        for name, metric in made.items():
            object.__setattr__(self, name, metric)

    latency: Histogram = field(init=False)
    wait: Histogram = field(init=False)
    batch: Histogram = field(init=False)
    waiting: Gauge = field(init=False)
    clients: Gauge = field(init=False)
    rejected: Counter = field(init=False)
    outside: Counter = field(init=False)

    _uncounted: list[tuple[Reply, Contract]] = field(default_factory=list, init=False)

    def served(self, reply: Reply, contract: Contract) -> None:
        """Count one reply: when somebody asks, or when some wait; at once it would hold up the next request."""
        self._uncounted.append((reply, contract))
        if len(self._uncounted) >= _WAITING:
            self._count()

    def exposition(self) -> tuple[str, bytes]:
        """The content type, and all metrics as text."""
        self._count()
        return CONTENT_TYPE_LATEST, generate_latest(self.registry)

    def _count(self) -> None:
        for reply, contract in self._uncounted:
            self.latency.observe(reply.inference_seconds)
            self.wait.observe(reply.waited_seconds)
            self.batch.observe(reply.batch)
            low, high = _range(contract.statistics.action)
            self.outside.inc(int(((reply.actions < low) | (reply.actions > high)).sum()))
        self._uncounted.clear()


@lru_cache(maxsize=64)
def _range(column: ColumnStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Of the training data, and what rounding may add."""
    low, high = np.array(column.min), np.array(column.max)
    margin = 1e-6 * (high - low)
    return low - margin, high + margin
