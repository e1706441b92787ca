"""Each injected fault is named; a policy as trained passes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from vla_tune.check.agreement import Recorded, agreement
from vla_tune.check.probes import Case, examine
from vla_tune.check.suspects import _cropped
from vla_tune.schema import BaseWeights, Contract, Gripper, Observation

FRAMES, HORIZON = 40, 4


@dataclass(frozen=True)
class Reader:
    """Reads its actions off colours, the border, the state and the words; as a network would that learned to."""

    crop: bool = True

    def act(self, observations):
        return np.stack([self.chunk(one) for one in observations])

    def chunk(self, one: Observation) -> np.ndarray:
        image = one.images["front"]
        image = (_cropped(image) if self.crop else image).astype(np.float32) / 255
        red, blue = image[..., 0].mean(), image[..., 2].mean()
        border = np.concatenate([image[:2].ravel(), image[-2:].ravel()]).mean()
        moves = [
            0.06 * (red - blue),
            0.08 * (border - image[20:44, 20:44].mean()),
            0.1 * one.state[2] + 1e-4 * len(one.instruction),
        ]
        return np.tile(np.array([*moves, float(red > 0.5)], np.float32), (HORIZON, 1))

    def reset(self) -> None: ...


@dataclass(frozen=True)
class Changed:
    """A policy between whose eyes or hands something goes wrong."""

    policy: Reader
    before: Callable[[np.ndarray], np.ndarray] | None = None
    after: Callable[[np.ndarray], np.ndarray] | None = None

    def act(self, observations):
        if self.before is not None:
            observations = [replace(one, images={"front": self.before(one.images["front"])}) for one in observations]
        chunks = self.policy.act(observations)
        return chunks if self.after is None else self.after(chunks)

    def reset(self) -> None: ...


class Still:
    """What training began with."""

    def act(self, observations):
        return np.zeros((len(observations), HORIZON, 4), np.float32)

    def reset(self) -> None: ...


def picture(random: np.random.Generator) -> np.ndarray:
    """Colours that say something, and a bright or dark edge that the crop takes away."""
    colour = random.integers(40, 216, 3)
    image = np.clip(colour + random.normal(0, 10, (64, 64, 3)), 0, 255)
    edge = random.integers(0, 256)
    for side in (image[:2], image[-2:], image[:, :2], image[:, -2:]):
        side[:] = edge
    return image.astype(np.uint8)


@pytest.fixture(scope="module")
def case(tiny_contract) -> Case:
    random = np.random.default_rng(0)
    states = random.uniform(-0.1, 0.1, (FRAMES, 4)).astype(np.float32)
    seen = [Observation({"front": picture(random)}, state, "lift the red block") for state in states]
    actions = Reader().act(seen) + random.normal(0, 5e-4, (FRAMES, HORIZON, 4)).astype(np.float32) * np.array(
        [1, 1, 1, 0], np.float32
    )
    column = replace(tiny_contract.statistics.action, min=(-0.03, -0.03, -0.03, 0.0), max=(0.03, 0.03, 0.03, 1.0))
    contract = replace(tiny_contract, statistics=replace(tiny_contract.statistics, action=column))
    recorded = Recorded(seen, actions.astype(np.float32), np.ones((FRAMES, HORIZON), bool))
    return Case(
        policy=Reader(),
        contract=contract,
        recorded=recorded,
        statistics=contract.statistics,
        reference=Reader(),
        trained=contract,
        base=agreement(Still(), recorded, contract),
    )


def failures(case: Case) -> list[str]:
    return [str(finding) for finding in examine(case) if not finding.passed]


def test_a_policy_as_trained_passes(case):
    assert failures(case) == []


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (
            Changed(Reader(), before=lambda image: image[..., ::-1]),
            "FAIL training frames: its images have their channels swapped: BGR",
        ),
        (Reader(crop=False), "FAIL training frames: the centre crop of training is missing"),
        (Changed(Reader(), after=lambda chunks: chunks * [1, 1, 1, -1] + [0, 0, 0, 1]), "FAIL gripper: flipped gripper"),
        (Changed(Reader(), after=lambda chunks: chunks * [2, 2, 2, 1]), "FAIL scale: a delta is applied twice"),
        (Still(), "FAIL adapter: the policy acts as its base does: the adapter was not merged"),
    ],
    ids=["BGR", "crop", "gripper", "delta twice", "unmerged"],
)
def test_each_fault_is_named(case, fault, named):
    said = failures(replace(case, policy=fault))
    assert any(line.startswith(named) for line in said), said


def test_wrong_statistics_are_named_with_the_numbers(case):
    column = case.contract.statistics.action
    other = replace(case.contract.statistics, action=replace(column, q99=tuple(2 * value for value in column.q99)))
    (said,) = [
        line for line in failures(replace(case, contract=replace(case.contract, statistics=other))) if "FAIL statistics" in line
    ]
    assert said.startswith("FAIL statistics: wrong statistics: action.q99 is [")


def test_a_policy_that_does_not_look_is_named(case):
    blind = Changed(Reader(), before=lambda image: np.full_like(image, 128))
    assert any(line.startswith("FAIL image: changes nothing") for line in failures(replace(case, policy=blind)))


def test_a_slow_policy_and_one_out_of_range_are_named(case):
    far = Changed(Reader(), after=lambda chunks: chunks * [5, 5, 5, 1])
    assert any(line.startswith("FAIL range") for line in failures(replace(case, policy=far)))
    contract = replace(case.contract, embodiment=replace(case.contract.embodiment, control_hz=100_000.0))
    assert any(line.startswith("FAIL control rate") for line in failures(replace(case, contract=contract, trained=contract)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"horizon": 8}, "FAIL chunk settings: horizon is 8, in training it was 4"),
        ({"execute_steps": 1}, "FAIL chunk settings: execute_steps is 1, in training it was 4"),
    ],
)
def test_other_chunk_settings_are_named(case, change, named):
    said = failures(replace(case, contract=replace(case.contract, **change)))
    assert said[0].startswith(named)
    assert [line.partition(":")[0] for line in said] == ["FAIL chunk settings", "FAIL contract"]


def group(contract: Contract, **change) -> Contract:
    body = contract.embodiment
    return replace(contract, embodiment=replace(body, action=(*body.action[:-1], replace(body.action[-1], **change))))


@pytest.mark.parametrize(
    ("edited", "named"),
    [
        (
            lambda c: group(c, gripper=Gripper(engaged=0.0, released=1.0)),
            "embodiment.action[1].gripper.engaged is 0.0, was 1.0",
        ),
        (lambda c: group(c, gripper=None), "embodiment.action[1].gripper is None, was 'absent'"),
        (lambda c: group(c, unit="m"), "embodiment.action[1].unit is 'm', was '1'"),
        (lambda c: group(c, frame="table"), "embodiment.action[1].frame is 'table', was 'none'"),
        (lambda c: group(c, representation="delta"), "embodiment.action[1].representation is 'delta', was 'absolute'"),
        (lambda c: group(c, names=("hand",)), "embodiment.action[1].names is ['hand'], was []"),
        (lambda c: replace(c, embodiment=replace(c.embodiment, state_key="state")), "embodiment.state_key is 'state', was 'obs"),
        (lambda c: replace(c, model=c.model | {"prompt": "{instruction}"}), "model.prompt is '{instruction}', was 'In: What"),
        (
            lambda c: replace(c, model=c.model | {"image": c.model["image"] | {"center_crop_area": 0.9}}),
            "model.image.center_crop_area is 0.9, was 1.0",
        ),
    ],
)
def test_every_edit_of_the_contract_is_named(case, edited, named):
    (said,) = [line for line in failures(replace(case, contract=edited(case.contract))) if line.startswith("FAIL contract")]
    assert said.startswith(f"FAIL contract: not that of training: {named}")


def test_how_a_policy_is_stored_and_sent_is_no_other_contract(case):
    beside = BaseWeights(content_hash="0" * 64, format="nf4")
    elsewhere = replace(case.contract, base=beside, jpeg_quality=90, precision="fp32")
    assert elsewhere.differences(case.contract) == []


def test_another_function_than_the_trained_one_is_named(case):
    other = Changed(Reader(), after=lambda chunks: chunks + np.float32(0.002) * np.array([1, 1, 1, 0], np.float32))
    assert any(line.startswith("FAIL live policy: 2.5 % of an action's range") for line in failures(replace(case, policy=other)))


def test_chunks_of_another_length_are_refused(case):
    with pytest.raises(ValueError, match=r"the policy's chunks are \[2, 4\], the contract says \[4, 4\]"):
        agreement(Changed(Reader(), after=lambda chunks: chunks[:, :2]), case.recorded, case.contract)


def failed(case: Case, probe: str) -> str | None:
    """What one probe says, if it fails."""
    return next((finding.said for finding in examine(case) if finding.probe == probe and not finding.passed), None)


def broken_after(count: int) -> Callable[[np.ndarray], np.ndarray]:
    asked = iter(range(10**6))
    return lambda chunks: chunks if next(asked) < count else np.full_like(chunks, np.nan)


@pytest.mark.parametrize("role", ["policy", "reference"])
def test_a_policy_that_gives_no_number_passes_nothing(case, role):
    findings = examine(replace(case, **{role: Changed(Reader(), after=broken_after(7))}))
    assert findings[-1].probe == "numbers"
    assert "recorded frame 7" in findings[-1].said
    assert not findings[-1].passed


def test_a_changed_frame_must_lead_to_numbers_too(case):
    seen = [replace(one, state=one.state * 0) for one in case.recorded.seen]
    dying = Changed(Reader(), after=lambda chunks: np.where(np.abs(chunks[..., 2:3]) > 0.012, np.nan, chunks))
    calm = replace(case, policy=dying, reference=Reader(), recorded=replace(case.recorded, seen=seen))
    assert "leads to NaN" in str(failed(calm, "proprioception"))


def constant_gripper(case: Case, value: float = 0.0) -> Case:
    """A task that never uses it."""
    actions = case.recorded.actions.copy()
    actions[..., 3] = value
    still = Changed(
        Reader(), after=lambda chunks: chunks * np.array([1, 1, 1, 0], np.float32) + np.array([0, 0, 0, value], np.float32)
    )
    action = replace(case.contract.statistics.action, min=(-0.03, -0.03, -0.03, value), max=(0.03, 0.03, 0.03, value))
    contract = replace(case.contract, statistics=replace(case.contract.statistics, action=action))
    recorded = replace(case.recorded, actions=actions)
    return replace(
        case, policy=still, reference=still, contract=contract, trained=contract, statistics=contract.statistics, recorded=recorded
    )


def test_a_gripper_that_never_moves_is_judged_by_its_side(case):
    quiet = constant_gripper(case)
    assert failed(quiet, "gripper") is None
    off_by_a_code = Changed(quiet.policy, after=lambda chunks: chunks - np.array([0, 0, 0, 1 / 128], np.float32))
    assert (failed(replace(quiet, policy=off_by_a_code), "gripper"), failed(replace(quiet, policy=off_by_a_code), "range")) == (
        None,
    ) * 2
    flipped = Changed(quiet.policy, after=lambda chunks: chunks + np.array([0, 0, 0, 1], np.float32))
    assert "0 % of the values on the recorded side, trained 100 %" in str(failed(replace(quiet, policy=flipped), "gripper"))


def test_a_gripper_that_stopped_following_is_named(case):
    stuck = Changed(Reader(), after=lambda chunks: chunks * np.array([1, 1, 1, 0], np.float32))
    assert "does not follow" in str(failed(replace(case, policy=stuck), "gripper"))


def test_a_dimension_that_never_moved_must_not_jump(case):
    """Its largest recorded action is 0: what a policy does beside it is measured in codes."""
    quiet = Changed(Reader(), after=lambda chunks: chunks * np.array([0, 1, 1, 1], np.float32))
    actions = case.recorded.actions * np.array([0, 1, 1, 1], np.float32)
    still = replace(case, policy=quiet, reference=quiet, recorded=replace(case.recorded, actions=actions))
    assert failed(still, "range") is None
    jumps = Changed(quiet, after=lambda chunks: chunks + np.array([0.01, 0, 0, 0], np.float32))
    assert "first step" in str(failed(replace(still, policy=jumps), "range"))


def test_nothing_tells_how_far_a_dimension_may_that_never_moved_where_there_are_no_codes(case):
    """A model that says numbers has no distance between codes to measure it by; the other dimensions are measured."""
    actions = case.recorded.actions * np.array([0, 1, 1, 1], np.float32)
    numbers = replace(case.contract, resolution=0.0)
    recorded = replace(case.recorded, actions=actions)
    plain, still = (agreement(policy, recorded, numbers).jump for policy in (Reader(), Still()))
    assert plain == pytest.approx(1.0, abs=0.2)
    assert still == 0.0


def test_statistics_that_are_no_numbers_are_wrong(case):
    action = replace(case.contract.statistics.action, q99=(np.nan,) * 4)
    contract = replace(case.contract, statistics=replace(case.contract.statistics, action=action))
    assert "action.q99 is [nan" in str(failed(replace(case, contract=contract), "statistics"))
