"""Environments that play where they are told to: in this process, or each in one of its own. What crosses is plain data.

Nothing here needs more than numpy, gymnasium, jaxtyping and msgpack, so that the other side may be an interpreter without torch.
"""

from vla_tune.workers.process import Process
from vla_tune.workers.start import Behind, Start
from vla_tune.workers.worker import About, Tick, Worker

__all__ = ["About", "Behind", "Process", "Start", "Tick", "Worker"]
