"""A plan as text."""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table

from vla_tune.plan.advice import Change, slowdown
from vla_tune.plan.plan import Plan
from vla_tune.plan.speed import SHARE

_NOTHING = "No change that is known here makes it fit: choose a smaller model."


def print_plan(plan: Plan, advice: Sequence[Change], *, title: str, console: Console | None = None) -> None:
    """Two tables, the verdict, and what to change."""
    out = console or Console()
    out.print(title, highlight=False, markup=False, soft_wrap=True)
    out.print(Group(_parameters(plan), _memory(plan)), highlight=False)
    for line in [verdict(plan), *_missing(plan), *_time(plan), *_full(plan), *advice_lines(plan, advice)]:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def verdict(plan: Plan) -> str:
    """Whether it fits, in one sentence."""
    return f"{'It fits' if plan.fits else 'It does not fit'}: {needed(plan)}."


def needed(plan: Plan) -> str:
    """The peak, and what there is."""
    need, have = size_text(plan.bytes_.peak), size_text(plan.device.usable_bytes)
    return f"{need} of the {have} that {plan.device.name} has for tensors ({plan.device.memory_gib:.3g} GiB)"


def advice_lines(plan: Plan, advice: Sequence[Change]) -> list[str]:
    """The changes, a line each; nothing where it fits."""
    if plan.fits:
        return []
    if not advice:
        return [_NOTHING]
    return ["What makes it fit, the fastest first:", *(_line(change, plan) for change in advice)]


def advice_text(plan: Plan, advice: Sequence[Change]) -> str:
    """The same in one sentence, each change as it is typed."""
    if not advice:
        return f"{_NOTHING[:-1]}, or another machine."
    return f"What makes it fit, the fastest first: {'; '.join(f'{_typed(change)} {_cost(change, plan)}' for change in advice)}."


def _line(change: Change, plan: Plan) -> str:
    return f"  {' '.join(change.overrides)}   {_cost(change, plan)}"


def _typed(change: Change) -> str:
    other_card = len(change.overrides) == 1 and change.overrides[0].startswith("gpu=")
    return f"a {change.plan.device.name}" if other_card else " ".join(change.overrides)


def _cost(change: Change, plan: Plan) -> str:
    factor = slowdown(change, plan)
    return f"({size_text(change.plan.bytes_.peak)}{'' if factor is None else f', {factor:.2f}x the time'})"


def _parameters(plan: Plan) -> Table:
    table = Table("parameters", "of the base", "that learn")
    for column in table.columns[1:]:
        column.justify = "right"
    for tower in plan.towers:
        table.add_row(tower.name, f"{tower.parameters:,}", f"{tower.trainable:,}")
    base = sum(tower.parameters for tower in plan.towers)
    table.add_row("all", f"{base:,}", f"{plan.trainable:,} ({plan.percent:.3f} %)", style="bold")
    return table


def _memory(plan: Plan) -> Table:
    size = plan.bytes_
    each = f", each of {plan.devices} GPUs ({plan.sharding})" if plan.devices > 1 else ""
    table = Table(f"memory{each}", "GB", "")
    table.columns[1].justify = "right"
    rows = [
        ("weights", size.weights, f"base={plan.base}"),
        ("adapter", size.adapter, "float32"),
        ("gradients", size.gradients, "float32"),
        ("optimizer states", size.optimizer, f"and {size_text(size.host)} in the computer's memory" if size.host else ""),
        ("activations", size.activations, _load(plan)),
        ("working memory", size.working, "gradients of activations, dequantised weights"),
        ("acting", size.acting, f"predictions in validation, and for {plan.load.rows} observations at a time"),
    ]
    for name, count, note in rows:
        table.add_row(name, f"{count / 1e9:.3f}", note)
    table.add_row("peak", f"{size.peak / 1e9:.3f}", "no sum: not all of it is there at once", style="bold")
    return table


def _load(plan: Plan) -> str:
    kept = ", checkpointing" if plan.load.checkpointing else ""
    if plan.model.outline.loss is not None:
        return f"batch {plan.load.batch_size}{kept}, run without memory"
    return f"batch {plan.load.batch_size} x {plan.load.length} tokens{kept}"


def _missing(plan: Plan) -> list[str]:
    return [f"The activations of {name} are not counted: its blocks are of an unknown kind." for name in plan.model.uncounted]


def _time_text(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def _time(plan: Plan) -> list[str]:
    if plan.speed is None:
        return ["No time is estimated: the speed of this device is not known."]
    floor = "" if plan.action_floor_seconds is None else f" An action takes at least {_time_text(plan.action_floor_seconds)}."
    return [
        f"A step takes about {_time_text(plan.speed.step_seconds)}, {plan.steps:,} steps {_time_text(3600 * plan.speed.hours)}, at "
        f"{SHARE:.0%} of the GPU's peak: {plan.speed.samples_per_second:.1f} samples/s.{floor}"
    ]


def _full(plan: Plan) -> list[str]:
    figures = plan.full_fine_tuning
    fp32, half, kahan = (size_text(figures[name]) for name in ("fp32_adam", "half_precision", "half_precision_kahan"))
    return [
        f"Full fine-tuning, without activations: {fp32} with float32 weights and Adam states (16 bytes a parameter), {half} to "
        f"{kahan} all in half precision (8 to 10)."
    ]


def size_text(size: int) -> str:
    """Bytes, with a unit."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
