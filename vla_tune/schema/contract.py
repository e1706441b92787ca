"""Everything that must be the same in training, evaluation, merging and on the robot, as one record."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vla_tune.schema.augmentation import Augmentation
from vla_tune.schema.body import Embodiment
from vla_tune.schema.column import Statistics
from vla_tune.schema.json_text import read_object
from vla_tune.schema.sense import check_contract
from vla_tune.schema.strict import YOUNGER, content_hash, structured, to_record
from vla_tune.schema.versions import from_version_2, from_version_3, statistics_of_version_2

CONTRACT_FILE = "contract.json"
CONTRACT_VERSION = 4
_BESIDE = ("version", "base", "jpeg_quality", "precision")
"""What says nothing about what the robot does: how a policy is stored, sent and computed."""
_OF_VERSION_4 = ("model", "resolution")
_SHOWN = 120
"""Characters of a value in a message."""
_MOST_BYTES = 8 * 1024**2
"""Of a file: bins of each of a hundred dimensions, or the text of a byte-pair tokenizer, take one."""


@dataclass(frozen=True, kw_only=True)
class BaseWeights:
    """The weights that an adapter belongs to."""

    content_hash: str
    format: str
    """In which training multiplied with them: `bf16`, `nf4`, ..."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything that must be the same in training, evaluation, merging and on the robot."""

    version: int
    embodiment: Embodiment
    horizon: int
    """T, the actions predicted at once."""
    execute_steps: int
    """How many of them are executed before the policy looks again."""
    precision: Literal["bf16", "fp32"]
    """Of the forward pass: bf16 is autocast, fp32 is none."""
    statistics: Statistics
    resolution: float
    """Between neighbouring actions that the model can say, in its own numbers; 0.0 where it says any number."""
    model: Mapping[str, Any]
    """What is the model's own, as JSON data: its `family` reads the rest (prompt, pixels, codes; `models.base.Checkpoint`)."""
    augmentation: Augmentation | None = field(default=None, metadata=YOUNGER)
    """What training changed in each sample; None where it saw them as they are."""
    base: BaseWeights | None = None
    """Beside an adapter's files: what it belongs to. Whole weights need no other."""
    jpeg_quality: int | None = None
    """At which pictures come to a server; None where they come as they are."""

    @property
    def statistics_hash(self) -> str:
        """SHA-256 of the statistics, to compare two sides without sending them."""
        return content_hash(to_record(self.statistics))

    @property
    def record(self) -> dict[str, Any]:
        """As JSON data, sealed with hashes of the statistics and of everything."""
        return _sealed(to_record(self) | {"statistics_hash": self.statistics_hash})

    def differences(self, other: "Contract", *, beside: Sequence[str] = _BESIDE) -> list[str]:
        """The fields in which two contracts let a robot do different things, each as `path is this, was that`.

        How a policy is stored, sent and computed is none of them: those beside an adapter, merged, exported and served are equal.

        Args:
            other: What it was.
            beside: Fields that are not compared.
        """
        here, there = (dict(_leaves(_without(to_record(each), beside))) for each in (self, other))
        paths = [path for path in here | there if here.get(path, "absent") != there.get(path, "absent")]
        return [f"{path} is {_shown(here.get(path, 'absent'))}, was {_shown(there.get(path, 'absent'))}" for path in paths]

    def save(self, folder: Path) -> None:
        """Write `contract.json` into `folder`."""
        (folder / CONTRACT_FILE).write_text(json.dumps(self.record, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Contract":
        """Read `contract.json` from `folder`; of versions 2 and 3 too, which is then one of this version.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a field is missing, unknown, of the wrong type or without sense, or it was edited.
        """
        path = folder / CONTRACT_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: a policy without its contract cannot be run. Export it again; of a published policy, "
                "scripts/export.py run=... writes one."
            )
        return contract_from_record(read_object(path, largest=_MOST_BYTES), source=str(path))


def contract_from_record(record: Mapping[str, Any], *, source: str) -> Contract:
    """The contract in `record`, checked field by field; `source` is named in errors.

    Raises:
        ValueError: a field is missing, unknown, of the wrong type or without sense, or it does not match its hashes.
    """
    fields = dict(record)
    _refuse_targets(fields, source)
    version = fields.get("version", CONTRACT_VERSION)
    if type(version) is not int or version not in _READERS:
        known = ", ".join(map(str, _READERS))
        raise ValueError(f"{source} has version {str(version)[:40]}; this library reads {known}: update it.")
    contract = _READERS[version](fields, source)
    check_contract(contract, source)
    return contract


def _version_4(fields: dict[str, Any], source: str) -> Contract:
    expected, statistics = fields.pop("contract_hash", None), fields.pop("statistics_hash", None)
    contract = structured(fields, Contract, source)
    _check_hash(statistics, contract.statistics_hash, "the statistics do not match their hash", source)
    _check_hash(expected, contract.record["contract_hash"], "its fields do not match their hash", source)
    return contract


def _version_3(fields: dict[str, Any], source: str) -> Contract:
    """What is the model's lay beside what is the robot's."""
    _refuse_younger(fields, source)
    expected, found = fields.pop("contract_hash", None), content_hash(fields)
    statistics = fields.pop("statistics_hash", None)
    contract = structured(from_version_3(fields), Contract, source)
    _check_hash(statistics, contract.statistics_hash, "the statistics do not match their hash", source)
    _check_hash(expected, found, "its fields do not match their hash", source)
    return contract


def _version_2(fields: dict[str, Any], source: str) -> Contract:
    """It knew no hash but that of its statistics."""
    _refuse_younger(fields, source)
    expected = fields.pop("statistics_hash", None)
    contract = structured(from_version_3(from_version_2(fields)), Contract, source)
    hashed = content_hash(statistics_of_version_2(to_record(contract.statistics)))
    _check_hash(expected, hashed, "the statistics do not match their hash", source)
    return contract


_READERS: Mapping[int, Callable[[dict[str, Any], str], Contract]] = {
    2: _version_2,
    3: _version_3,
    CONTRACT_VERSION: _version_4,
}


def _refuse_younger(fields: Mapping[str, Any], source: str) -> None:
    if younger := [name for name in _OF_VERSION_4 if name in fields]:
        raise ValueError(
            f"{source}: extra fields found ({', '.join(younger)}), which version {fields['version']} did not have: take the "
            "contract.json of the training run again."
        )


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"contract_hash": content_hash(record)}


def _check_hash(expected: Any, found: str, said: str, source: str) -> None:
    if expected != found:
        raise ValueError(
            f"{source}: {said} ({str(expected)[:64]}). It was edited, or belongs to another run: "
            "take the contract.json of the training run again."
        )


def _without(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in names}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        for place, child in enumerate(value):
            yield from _leaves(child, f"{path}[{place}]")
    else:
        yield path, value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _refuse_targets(value: Any, source: str) -> None:
    if isinstance(value, Mapping) and "_target_" in value:
        raise ValueError(f"{source} holds _target_={str(value['_target_'])[:80]!r}: a contract is data and runs no code.")
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for child in children:
        _refuse_targets(child, source)
