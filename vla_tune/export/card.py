"""A model card: what the policy is, how it was made, how well it does and what was checked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vla_tune.evaluation.report import open_loop_cells
from vla_tune.printing import markdown
from vla_tune.schema import Contract

_LONGEST_CELL = 1000
_SHORT = 500
"""Characters of a value of the model's part that is shown."""


def model_card(
    name: str,
    contract: Contract,
    *,
    training: Mapping[str, Any],
    evaluation: Sequence[Mapping[str, Any]],
    open_loop: Sequence[Mapping[str, Any]] = (),
    checks: Sequence[str],
    form: str,
) -> str:
    """The card as markdown with the hub's header.

    Args:
        name: Of the policy.
        contract: Its own.
        training: Choices of the run by name: base, adapter, data, steps.
        evaluation: Success rates of the run's results.
        open_loop: Errors on its held-out frames.
        checks: What the parity checks found, a sentence each.
        form: How the weights are stored.
    """
    sections = [
        f"---\nlibrary_name: vla-tune\ntags: [robotics, vision-language-action, lerobot]\n---\n\n# {name}\n",
        f"{form}\n",
        "## Robot\n\n" + _robot(contract),
        "## Training\n\n" + _table(["", ""], [[key, str(value)] for key, value in training.items()]),
        "## Evaluation\n\n" + _evaluation(evaluation, open_loop),
        "## Checked before this folder was written\n\n" + "".join(f"- {check}\n" for check in checks),
        "## Use\n\n```\npython scripts/serve.py policy=<this folder>\npython scripts/control.py policy=<this folder> robot=...\n"
        "lerobot-rollout --policy.path=<this folder> ...   # with the plug-in lerobot_policy_vla_tune\n```\n",
    ]
    return "\n".join(sections)


def _robot(contract: Contract) -> str:
    body = contract.embodiment
    cameras = ", ".join(f"{camera.role} ({camera.key}, {camera.height} x {camera.width})" for camera in body.cameras)
    facts = [
        ["embodiment", f"{body.name}, {body.control_hz:g} Hz"],
        ["cameras", cameras],
        ["pictures", _pictures(contract)],
        ["state", _groups(body.state)],
        ["action", _groups(body.action)],
        ["chunk", f"{contract.horizon} actions, {contract.precision}"],
        *([f"model: {name}", value] for name, value in _of_the_model(contract.model)),
        [
            "statistics",
            f"{contract.statistics.dataset}: {contract.statistics.num_trajectories} episodes, `{contract.statistics_hash[:12]}`",
        ],
    ]
    return _table(["", ""], facts)


def _pictures(contract: Contract) -> str:
    changes = contract.augmentation
    if changes is None:
        return "as the cameras give them"
    centre = "" if changes.crop_area == 1 else f"the middle {changes.crop_area:g} of the area; "
    return f"{centre}augmented in training"


def _of_the_model(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is short in the model's part of the contract, which only its family reads."""
    for name, value in record.items():
        parts = {name: value} if not isinstance(value, Mapping) else value
        short = {key: part for key, part in parts.items() if isinstance(part, str | int | float) and len(str(part)) <= _SHORT}
        if isinstance(value, Mapping) and short:
            yield name, ", ".join(f"{key} {part}" for key, part in short.items())
        elif short:
            yield name, f"`{str(value).strip()}`".replace("\n", " ")


def _groups(groups: Sequence[Any]) -> str:
    said = (f"{group.name} [{group.dimension}] {group.representation}, {group.unit}, frame {group.frame}" for group in groups)
    return "; ".join(said) or "none"


def _evaluation(rows: Sequence[Mapping[str, Any]], open_loop: Sequence[Mapping[str, Any]]) -> str:
    if open_loop:
        head, *lines = open_loop_cells(open_loop)
        return _table(head, lines) + "\nMean absolute errors against recorded actions on held-out frames, in robot units.\n"
    if not rows:
        return "It was not evaluated.\n"
    cells = [
        [
            str(row["policy"]),
            str(row["task"]),
            f"{row['successes']} of {row['episodes']}",
            f"{100 * row['success_rate']:.1f} [{100 * row['wilson_low']:.1f}, {100 * row['wilson_high']:.1f}]",
        ]
        for row in rows
    ]
    return _table(["policy", "task", "successes", "success [%], 95 % Wilson interval"], cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown(head, [[_plain(cell) for cell in row] for row in rows], left=len(head))


def _plain(cell: str) -> str:
    """A text that stays in its cell: no line, no column and no markup of its own."""
    return " ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;").replace("](", "\\](")[:_LONGEST_CELL]
