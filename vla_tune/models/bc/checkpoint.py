"""Behaviour cloners, drawn from a seed or read from a folder: what `conf/model/bc.yaml` names."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vla_tune.data.pipeline import ModelPart
from vla_tune.models import files
from vla_tune.models.base import Outline, Wanted
from vla_tune.models.bc.inputs import BCInputs
from vla_tune.models.bc.network import BCNetwork, Sizes
from vla_tune.models.bc.record import FAMILY, LEAST_SIZE, BCRecord, record_of
from vla_tune.models.finite import check_finite
from vla_tune.models.sealed import seal, unbroken
from vla_tune.models.weight_files import SHARD_BYTES, write_weights
from vla_tune.schema import Contract, Embodiment, content_hash, structured, to_record

NOTHING = "nothing"
"""The folder of a model that has none: its weights are drawn."""
_BASES = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class _Config:
    """What lies beside the weights."""

    model_type: str
    size: int
    sizes: Sizes


@dataclass(frozen=True)
class BCCheckpoint:
    """A behaviour cloner: before it learned, what a seed and sizes make; afterwards a folder of weights.

    It computes in float32, also where a file keeps bfloat16.

    Raises:
        ValueError: `base` is a format of frozen weights, or sizes are missing or wrong.
    """

    folder: str
    """Of weights that were written before, with which learning goes on; `nothing` where they are drawn."""
    base: str = "fp32"
    seed: int = 0
    """From which weights are drawn. With the sizes it is all that identifies a model that learned nothing."""
    size: int | None = None
    """Pixels of the sides to which pictures are made smaller; this and the sizes are the folder's own, where there is one."""
    sizes: Mapping[str, Any] | None = None
    """`Sizes`, by name."""
    additions: Mapping[str, Any] = field(default_factory=dict)
    """None: what `models.openvla.additions` puts beside a base is OpenVLA's."""

    def __post_init__(self) -> None:
        if self.additions:
            raise ValueError(f"{', '.join(self.additions)}: a behaviour cloner takes no additions: leave addition= and head= out.")
        if self.base not in _BASES:
            raise ValueError(f"base={self.base}: all of a behaviour cloner learns, from nothing: choose adapter=full.")
        if self.folder == NOTHING:
            _ = self._config

    @property
    def path(self) -> Path:
        """The folder; of drawn weights there is none."""
        return Path(self.folder)

    @cached_property
    def _config(self) -> _Config:
        if self.folder != NOTHING:
            source = self.path / files.CONFIG_FILE
            return structured(files.read_record(source, "the sizes of a behaviour cloner"), _Config, str(source))
        if self.size is None or self.sizes is None or self.size < LEAST_SIZE:
            raise ValueError(f"model.size={self.size}, model.sizes={self.sizes}: a model from nothing needs both, size from 32 on.")
        return structured({"model_type": FAMILY, "size": self.size, "sizes": dict(self.sizes)}, _Config, "model")

    def part(self, wanted: Wanted) -> ModelPart:
        """How it is given pictures and words.

        Raises:
            ValueError: codes are wanted of it, or it was made for another robot or horizon.
        """
        if wanted.head is not None or wanted.tokens is not None:
            raise ValueError("a behaviour cloner says values, no codes: choose head=none tokens=none.")
        self._check(wanted.embodiment, wanted.horizon)
        return ModelPart(to_record(BCRecord(family=FAMILY, size=self._config.size, words="crc32")))

    def interface(self, contract: Contract, *, head: Callable[..., Any] | None = None) -> BCInputs:
        """The model's part of a contract, read.

        Raises:
            ValueError: it is another family's, or for another robot or horizon.
        """
        record = record_of(contract)
        self._check(contract.embodiment, contract.horizon)
        if record.size != self._config.size:
            raise ValueError(
                f"contract: pictures of {record.size}, {self.folder} reads {self._config.size}: take both from one run."
            )
        return BCInputs(contract, record)

    def _check(self, body: Embodiment, horizon: int) -> None:
        own = self._config.sizes
        asked = replace(
            own,
            cameras=len(body.cameras),
            state_dimension=body.state_dimension,
            action_dimension=body.action_dimension,
            horizon=horizon,
        )
        different = [name for name, value in asdict(asked).items() if getattr(own, name) != value]
        if different:
            said = ", ".join(f"{name}={getattr(own, name)} (wanted {getattr(asked, name)})" for name in different)
            raise ValueError(f"{self.folder} is a behaviour cloner with {said}: it learns from nothing: model.folder={NOTHING}.")

    def load(self, *, device: torch.device | str) -> BCNetwork:
        """The network in evaluation mode; weights that are drawn are drawn on the CPU, and no other random number moves.

        Raises:
            ValueError: a weight is missing, left over, of another shape, or no number.
        """
        if self.folder == NOTHING:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                return BCNetwork(self._config.sizes).to(device).eval()
        network, tensors = self._empty(), dict(self.weights())
        expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
        if {name: tensor.shape for name, tensor in tensors.items()} != expected:
            names = sorted(expected.keys() ^ tensors.keys()) or ["the shapes"]
            raise ValueError(f"{self.path}: {', '.join(names[:3])} are not those of {files.CONFIG_FILE}: copy the folder again.")
        check_finite(tensors.items(), self.path)
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
        return network.to(device).eval()

    def outline(self) -> Outline:
        """The architecture, and a loss from shapes alone."""
        return Outline(model=self._empty(), loss=_Shapes(self._config.size).loss)

    def _empty(self) -> BCNetwork:
        with torch.device("meta"):
            return BCNetwork(self._config.sizes)

    def content_hash(self) -> str:
        """SHA-256 of the weights; of drawn ones, of the seed and the sizes from which they follow."""
        if self.folder == NOTHING:
            return content_hash({"seed": self.seed, "sizes": to_record(self._config.sizes)})
        return files.content_hash(self.path)

    def weights(self) -> Mapping[str, Tensor]:
        """All of them: they are few."""
        if self.folder == NOTHING:
            return dict(self.load(device="cpu").state_dict())
        return dict(files.read_tensors(unbroken(self.path)))

    def write(self, folder: Path, tensors: Mapping[str, Tensor], contract: Contract) -> None:
        """Weights, sizes and contract into an existing folder."""
        write_weights(folder, self._shapes(tensors), tensors, shard_bytes=SHARD_BYTES)
        (folder / files.CONFIG_FILE).write_text(json.dumps(to_record(self._config), indent=1) + "\n")
        contract.save(folder)
        seal(folder)

    def _shapes(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        dtype = next(iter(tensors.values())).dtype
        return {name: tensor.to(dtype) for name, tensor in self._empty().state_dict().items()}


@dataclass(frozen=True)
class _Shapes:
    """A batch of black pictures and a sentence of eight words."""

    size: int

    def loss(self, network: nn.Module, rows: int) -> Tensor:
        """Of so many rows."""
        assert isinstance(network, BCNetwork)
        sizes, words = network.sizes, torch.zeros(rows, 8, dtype=torch.long)
        pixels = torch.zeros(rows, sizes.cameras, 3, self.size, self.size)
        return network(pixels, words, words == 0, torch.zeros(rows, sizes.state_dimension)).abs().mean()
