"""What a run began with that its configuration only names: the bytes of its base, its data, its kind of device."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from vla_tune.models.base import Checkpoint
from vla_tune.run.changes import Change, check_changes, note
from vla_tune.run.folder import ADAPTER_FOLDER, asset_named, shipped, steps_of
from vla_tune.schema import Contract, content_hash, read_object, without_names, write_json

ORIGIN_FILE = "origin.json"
_SHORT, _MOST_BYTES = 12, 64 * 1024
_OTHERWISE_CHECKED = ("version", "base", "jpeg_quality")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a run comes from."""

    base_hash: str
    """SHA-256 of the weights of its base."""
    asset: str | None
    """The name of the base among those that ship with the package, where it is one: it is found on every machine."""
    device: str | None
    """Its kind: `cpu` or `cuda`. Another rounds differently."""
    data: str | None = None
    """What tells the pictures and sentences of its training episodes from others (`vla_tune.data.fingerprint`)."""
    folder: str | None = None
    """Where the base lies on this machine, if that was said (`model.folder=`) since the run was made elsewhere."""

    def save(self, folder: Path) -> None:
        """Write it into a run's folder."""
        write_json(folder / ORIGIN_FILE, asdict(self))


def origin_of(checkpoint: Checkpoint, *, device: str, data: str) -> Origin:
    """Of a run that begins now, with data of this fingerprint."""
    named = {"asset": asset_named(checkpoint.path), "device": device.partition(":")[0]}
    return Origin(base_hash=checkpoint.content_hash(), data=data, **named)


def load_origin(folder: Path) -> Origin | None:
    """Of a run; None for one that was made before this was kept.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / ORIGIN_FILE
    if not path.is_file():
        return None
    record = read_object(path, largest=_MOST_BYTES)
    try:
        if not all(value is None or isinstance(value, str) for value in record.values()):
            raise ValueError("it holds something else than text")
        return Origin(**record)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy the run again.") from None


def known_base(run: Path) -> Path | None:
    """Where the base of a run lies on this machine, if not where its configuration says: where the user said, or in the package."""
    origin = load_origin(run)
    if origin is None:
        return None
    if origin.folder is not None and Path(origin.folder).is_dir():
        return Path(origin.folder)
    return next((path for path in shipped() if path.name == origin.asset), None)


def say_base(run: Path, folder: Path, checkpoint: Checkpoint) -> None:
    """Keep in a run's folder that its base lies in `folder` on this machine, where `checkpoint` reads it.

    Raises:
        ValueError: that is another base.
    """
    origin = load_origin(run) or _from_adapter(run)
    if (found := checkpoint.content_hash()) != origin.base_hash:
        raise ValueError(
            f"model.folder={folder} holds weights with hash {found[:_SHORT]}..., {run} was trained on "
            f"{origin.base_hash[:_SHORT]}...: name the base of its training."
        )
    if origin.folder != str(folder.resolve()):
        replace(origin, folder=str(folder.resolve())).save(run)


def begin(folder: Path, contract: Contract, origin: Origin, *, resume: str | None) -> None:
    """Write what the run learns from, or check that a run which goes on learns from the same as before.

    Raises:
        ValueError: data, base, tokens or device are others than those that it began with; what differs is named.
    """
    if done := steps_of(folder):
        changes = _exchanged(folder, contract, origin)
        check_changes(changes, resume=resume, what=f"{folder} began with other data, tokens, base or device")
        if changes:
            note(folder, changes, step=done[-1])
    contract.save(folder)
    origin.save(folder)


def _exchanged(folder: Path, contract: Contract, origin: Origin) -> list[Change]:
    before, known = Contract.load(folder), load_origin(folder)
    if not any(group.names for group in before.embodiment.action):  # of version 2, which knew no names
        contract = replace(contract, embodiment=without_names(contract.embodiment))
    names = [field.name for field in fields(Contract) if field.name not in (*_OTHERWISE_CHECKED, "model")]
    pairs = [(name, getattr(before, name), getattr(contract, name)) for name in names]
    pairs += [(f"model.{name}", before.model.get(name), contract.model.get(name)) for name in {**before.model, **contract.model}]
    changes = [Change(f"contract.{name}", _short(then), _short(now)) for name, then, now in pairs if then != now]
    if known is None:
        return changes
    pairs = [("base_hash", known.base_hash, origin.base_hash)]
    pairs += [(name, getattr(known, name) or getattr(origin, name), getattr(origin, name)) for name in ("data", "device")]
    return changes + [Change(f"origin.{name}", _short(then), _short(now)) for name, then, now in pairs if then != now]


def _short(value: Any) -> Any:
    """A value as a message names it: itself where it is short, else what tells it from another."""
    return value if len(repr(value)) <= 2 * _SHORT else content_hash(repr(value))[:_SHORT]


def _from_adapter(run: Path) -> Origin:
    """Of a run that kept nothing else."""
    base = Contract.load(run / ADAPTER_FOLDER).base
    if base is None:
        raise ValueError(f"{run / ADAPTER_FOLDER} names no base: it is no run that scripts/train.py made.")
    return Origin(base_hash=base.content_hash, asset=None, device=None)
