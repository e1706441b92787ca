from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from vla_tune.data.collate import Batch, collate
from vla_tune.data.transforms import Transformed
from vla_tune.models.base import Loss
from vla_tune.models.openvla import OpenVLA
from vla_tune.training import CheckpointFolder, NonFiniteLossError, load_trained
from vla_tune.training.feed import StepSampler
from vla_tune.training.loggers import JsonlLogger, read_metrics
from vla_tune.training.metrics import Chosen, Validation
from vla_tune.training.non_finite import Skip
from vla_tune.training.optim import constant


@dataclass(frozen=True, eq=False)
class Wrapped:
    """A head around the tiny one that watches or spoils its losses."""

    head: object
    watch: object

    def over(self, network) -> "Watched":
        return Watched(self.head.over(network), self.watch)


@dataclass(frozen=True, eq=False)
class Watched:
    model: object
    watch: object

    @property
    def network(self):
        return self.model.network

    def loss(self, batch: Batch) -> Loss:
        return self.watch(self.model.loss(batch), batch)

    def act(self, batch: Batch):
        return self.model.act(batch)


@pytest.mark.parametrize("adapt", ["full", "lora"], indirect=True)
def test_loss_falls_and_the_instruction_is_learned(adapt, tiny_model: OpenVLA, run_training, tiny_samples, remember) -> None:
    model = adapt(tiny_model)
    frozen = {name: value.detach().clone() for name, value in model.named_parameters() if not value.requires_grad}
    result = run_training(
        model,
        steps=15,
        batch_size=5,
        validation=Validation(tiny_samples, first_frames=Chosen(tiny_samples, [0, 5])),
        loggers=[remember],
    )
    assert result.last_loss < 0.7 * result.first_loss
    assert result.validation["validation/token_accuracy"] == 1.0
    half_a_bin = 1 / 255
    assert result.validation["validation/first_frame_error"] <= half_a_bin
    assert all(torch.equal(value, frozen[name]) for name, value in model.named_parameters() if name in frozen)
    assert model.training

    assert (result.steps, result.samples) == (15, 75)
    assert result.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert result.peak_memory_bytes > 10**8
    assert result.cpu_seconds > 0
    assert asdict(result)["best_step"] == 15
    assert list(remember.lines) == list(range(1, 16))
    assert remember.lines[1]["train/learning_rate"] == pytest.approx(1.5e-3)
    assert [step for step, line in remember.lines.items() if "validation/loss" in line] == [15]
    assert 0 <= remember.lines[3]["train/data_share"] < 1


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_reaches_the_matrix_products(precision: str, dtype: torch.dtype, tiny_model, run_training, tiny_samples) -> None:
    """In training and validation, the vocabulary's included; the loss stays float32."""
    seen: list[tuple[bool, torch.dtype]] = []
    tiny_model.language_model.lm_head.register_forward_hook(lambda module, _, out: seen.append((module.training, out.dtype)))
    tiny_model.projector.fc1.register_forward_hook(lambda module, _, out: seen.append((module.training, out.dtype)))
    run_training(tiny_model, steps=2, precision=precision, validation=Validation(tiny_samples, predicted=tiny_samples[:2]))
    assert set(seen) == {(True, dtype), (False, dtype)}
    assert next(tiny_model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(("batch_size", "gradient_accumulation"), [(4, 1), (2, 2)])
def test_a_step_follows_the_mean_over_all_its_labels(
    batch_size: int, gradient_accumulation: int, tiny_model: OpenVLA, tiny_head, tiny_samples, run_training
) -> None:
    """However the samples are split into batches, whose numbers of labels differ."""
    twin = deepcopy(tiny_model)
    order = StepSampler(size=10, batch_size=batch_size, gradient_accumulation=gradient_accumulation, seed=7).indices(0)
    loss = tiny_head.over(twin).loss(collate([tiny_samples[index] for index in order], pad_id=512)).loss
    loss.backward()
    result = run_training(
        tiny_model,
        steps=1,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        max_gradient_norm=float("inf"),
        schedule=constant,
        optimizer=partial(torch.optim.SGD, lr=1e-3),
    )
    assert result.last_loss == pytest.approx(loss.item(), rel=1e-5)
    for (name, moved), start in zip(tiny_model.named_parameters(), twin.parameters(), strict=True):
        expected = start.detach() if start.grad is None else start.detach() - 1e-3 * start.grad
        torch.testing.assert_close(moved.detach(), expected, rtol=1e-4, atol=1e-6, msg=name)


def test_clipping_bounds_the_step(tiny_model: OpenVLA, run_training, remember) -> None:
    start = [value.detach().clone() for value in tiny_model.parameters()]
    options = {"schedule": constant, "optimizer": partial(torch.optim.SGD, lr=1.0)}
    run_training(tiny_model, steps=1, max_gradient_norm=0.25, loggers=[remember], **options)
    pairs = zip(tiny_model.parameters(), start, strict=True)
    moved = sum((value.detach() - before).square().sum().item() for value, before in pairs) ** 0.5
    assert moved == pytest.approx(0.25, rel=1e-3)
    assert remember.lines[1]["train/gradient_norm"] > 1


def spoil(output: Loss, batch: Batch) -> Loss:
    """The loss of episode 1, frame 2 is not a number."""
    rows = (batch.labels != -100).nonzero()[:, 0]
    hit = (batch.index[rows] == torch.tensor((1, 2))).all(dim=1)
    return replace(output, per_label=output.per_label.masked_fill(hit, torch.nan))


def test_a_loss_that_is_not_finite_names_its_frame(tiny_model: OpenVLA, tiny_head, run_training, tmp_path: Path) -> None:
    before = {}

    class Keep:
        def log(self, step, metrics) -> None:
            before.update({name: value.detach().clone() for name, value in tiny_model.named_parameters()})

        def close(self) -> None:
            pass

    message = r"Step \d+: the loss is not finite for episode 1 frame 2\. Nothing was moved.*on_non_finite=skip"
    with pytest.raises(NonFiniteLossError, match=message) as caught:
        run_training(tiny_model, head=Wrapped(tiny_head, spoil), save_every=1, loggers=[Keep()], run=tmp_path, batch_size=2)
    step = int(str(caught.value).split()[1].rstrip(":"))
    assert step > 1, "the seed must give one good step first"
    assert CheckpointFolder(tmp_path / "checkpoints", 1).steps()[-1] == step - 1
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.named_parameters())


def test_a_gradient_that_is_not_finite_stops_the_run(tiny_model: OpenVLA, run_training) -> None:
    weight = tiny_model.language_model.lm_head.weight
    weight.register_hook(lambda gradient: gradient * torch.inf)
    start = weight.detach().clone()
    with pytest.raises(NonFiniteLossError, match=r"Step 1: the gradient is (inf|nan) .* episode \d frame \d, episode \d frame \d"):
        run_training(tiny_model)
    assert torch.equal(weight, start)


def test_steps_that_are_not_finite_can_be_left_out(tiny_model: OpenVLA, tiny_head, run_training, remember, capsys) -> None:
    """One of the ten samples is bad: in 10 steps of 2, two are left out, and nothing moves in them."""
    moved = []

    class Moves:
        def __init__(self) -> None:
            self._before = tiny_model.projector.fc1.weight.detach().clone()

        def log(self, step, metrics) -> None:
            now = tiny_model.projector.fc1.weight.detach().clone()
            moved.append(not torch.equal(now, self._before))
            self._before = now

        def close(self) -> None:
            pass

    head = Wrapped(tiny_head, spoil)
    result = run_training(tiny_model, head=head, steps=10, batch_size=2, on_non_finite=Skip(limit=2), loggers=[remember, Moves()])
    left_out = [step for step, line in remember.lines.items() if "train/skipped" in line]
    assert len(left_out) == 2
    assert [step for step, did in enumerate(moved, start=1) if not did] == left_out
    assert all("train/loss" not in remember.lines[step] for step in left_out)
    said = capsys.readouterr().err
    assert "the loss is not finite for episode 1 frame 2. Left out: 1 of at most 2." in said
    assert result.steps == 10
    assert result.last_loss is not None


def test_more_of_them_than_the_limit_end_the_run(tiny_model: OpenVLA, tiny_head, run_training, tmp_path: Path) -> None:
    """Counted over all sessions of the run."""
    options = {"head": Wrapped(tiny_head, spoil), "batch_size": 2, "save_every": 1, "schedule": constant}
    run_training(tiny_model, steps=5, on_non_finite=Skip(limit=1), **options)
    with pytest.raises(
        NonFiniteLossError, match=r"episode 1 frame 2\. 1 steps were left out before, as many as on_non_finite.limit"
    ):
        run_training(tiny_model, steps=10, on_non_finite=Skip(limit=1), **options)
    with pytest.raises(ValueError, match=r"on_non_finite\.limit=0"):
        Skip(limit=0)


def test_the_best_checkpoint_is_kept(tiny_model: OpenVLA, run_training, tiny_samples, tmp_path: Path) -> None:
    """The learning rate grows until the model is destroyed, so that the best is an early one."""

    def explode(optimizer, *, steps: int):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 3 else 100.0)

    log = tmp_path / "metrics.jsonl"
    result = run_training(
        tiny_model,
        schedule=explode,
        validation=Validation(tiny_samples),
        validate_every=1,
        save_every=1,
        keep_last=1,
        loggers=[JsonlLogger(log)],
    )
    losses = {line["step"]: line["validation/loss"] for line in read_metrics(log)}
    best = min(losses, key=losses.__getitem__)
    assert best < 6
    assert (result.best_step, result.best_validation_loss) == (best, losses[best])
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints", 1)
    assert folder.steps() == [best, 6]
    worst = result.validation["validation/loss"]
    load_trained(tiny_model, folder.best())
    again = run_training(
        tiny_model,
        steps=1,
        optimizer=partial(torch.optim.SGD, lr=0.0),
        schedule=constant,
        validation=Validation(tiny_samples),
        run=tmp_path / "b",
    )
    assert again.validation["validation/loss"] == pytest.approx(losses[best], rel=1e-5)
    assert worst > losses[best]


def test_a_model_in_evaluation_mode_is_trained_in_training_mode(tiny_model: OpenVLA, tiny_head, run_training) -> None:
    modes = []

    def watch(output: Loss, batch: Batch) -> Loss:
        modes.append(tiny_model.training)
        return output

    run_training(tiny_model.eval(), head=Wrapped(tiny_head, watch), steps=1)
    assert modes == [True]


def test_nothing_to_train_is_refused(tiny_model: OpenVLA, run_training) -> None:
    with pytest.raises(ValueError, match="No parameter requires a gradient"):
        run_training(tiny_model.requires_grad_(False))


def test_samples_behind_a_pipeline() -> None:
    samples = Transformed([{"a": 1}, {"a": 2}], lambda sample: sample | {"b": sample["a"] * 10})
    assert len(samples) == 2
    assert samples[1] == {"a": 2, "b": 20}
