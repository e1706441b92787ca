"""A random tiny policy: the shipped architecture with untrained weights, built in milliseconds; and the original's tiny models."""

import gc
import hashlib
import json
import math
import os
import shutil
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vla_tune.adapters import Adapter
from vla_tune.adapters.merging import merged
from vla_tune.control import loop
from vla_tune.control.loop import Computed, Inference
from vla_tune.control.robot import Seen
from vla_tune.data.collate import Batch, collate
from vla_tune.models.cpu_bfloat16 import quick_bfloat16
from vla_tune.models.heads import ParallelTokenHead
from vla_tune.models.nf4 import plain_weights
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint, OpenVLAConfig
from vla_tune.models.openvla.inputs import space_of
from vla_tune.models.openvla.prompt import ParallelPrompt
from vla_tune.models.openvla.record import Given, ImageRule
from vla_tune.models.openvla.tiny import PROMPT, tiny_config, train_tokenizer
from vla_tune.record.writer import Storage, write_episodes
from vla_tune.schema import (
    Camera,
    ColumnStatistics,
    Contract,
    Embodiment,
    Gripper,
    Group,
    Statistics,
    embodiment_from_record,
)
from vla_tune.serving.background import serving_in_background
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.security import Loopback, Security
from vla_tune.serving.server import FixedAdapters, PolicyServer
from vla_tune.serving.worker import Worker
from vla_tune.tokens import BinTokenizer, uniform_edges
from vla_tune.training import loop as training_loop

# how long an example takes says how busy the machine is
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

GOLDEN = Path(__file__).parent / "golden"
CONF = Path(__file__).parents[1] / "conf"
SPANS = {"deg": 90.0, "rad": 1.5, "%": 100.0, "1": 1.0}
"""How far the joints of a robot move."""
FILES = ("config.json", "dataset_statistics.json", "generation_config.json", "preprocessor_config.json")
"""Of a published folder, beside weights and tokenizer."""
SENTENCES = ["lift the red block", "push the green block left", "touch the blue block", "where is the yellow block"]


def pytest_configure(config: pytest.Config) -> None:
    """Two workers on two cores: threads that wait for each other's would be ten times slower than none.

    The environment says so too, as a command that trains sets the threads again; and processes that a test starts inherit it.
    """
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported is not looked through for garbage again: that takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def quick_products() -> Iterator[None]:
    """A CPU without bfloat16 multiplies as it does in every command, and not for an hour."""
    with quick_bfloat16("cpu"):
        yield


@pytest.fixture(autouse=True)
def ordinary_signals() -> Iterator[None]:
    """Signals do what they do in a terminal's command, for the tests and the processes that they start.

    A background process of a script ignores SIGINT, and `nohup` lets SIGHUP be ignored; a child inherits both.
    """
    ordinary = dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2), signal.SIG_DFL)
    ordinary[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, handler) for number, handler in ordinary.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def configuration() -> Callable[..., DictConfig]:
    """A root configuration with overrides."""

    def composed(root: str, *overrides: str) -> DictConfig:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):  # by name, Hydra would look through all modules
            return compose(root, overrides=list(overrides))

    return composed


@pytest.fixture
def interrupted_after() -> Callable[[int], AbstractContextManager[None]]:
    """In this block, Ctrl-C comes at the end of a step of training."""

    @contextmanager
    def interrupting(steps: int) -> Iterator[None]:
        advance = training_loop.update

        def update(*args: Any, step: int, **kwargs: Any) -> Any:
            if step == steps:
                os.kill(os.getpid(), signal.SIGINT)
            return advance(*args, step=step, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training_loop, "update", update)
            yield

    return interrupting


@pytest.fixture(scope="session")
def tiny_config_record() -> OpenVLAConfig:
    return tiny_config()


@pytest.fixture
def tiny_model(tiny_config_record: OpenVLAConfig) -> OpenVLA:
    torch.manual_seed(0)
    return OpenVLA(tiny_config_record)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return train_tokenizer(SENTENCES)


@pytest.fixture
def merge_in_memory(tmp_path_factory) -> Callable[..., dict[str, Tensor]]:
    """The merged weights of a model that carries an adapter, by way of the adapter's files."""

    def merge(adapter: Adapter, model: nn.Module, *, dtype: torch.dtype) -> dict[str, Tensor]:
        folder, base_hash = tmp_path_factory.mktemp("adapter"), "0" * 64
        adapter.save(folder, model, base_hash=base_hash)
        weights = {name.replace(".base_layer.", "."): weight for name, weight in plain_weights(model) if ".lora_" not in name}
        return dict(merged(weights, adapter.changes(folder, base_hash=base_hash), dtype=dtype))

    return merge


def _statistics() -> Statistics:
    action = ColumnStatistics(
        mean=(0.0,) * 4,
        std=(0.02, 0.02, 0.02, 0.5),
        min=(-0.03, -0.03, -0.03, 0.0),
        max=(0.03, 0.03, 0.03, 1.0),
        q01=(-0.03, -0.03, -0.03, 0.0),
        q99=(0.03, 0.03, 0.03, 1.0),
        normalization=("quantile", "quantile", "quantile", "none"),
    )
    state = ColumnStatistics(
        mean=(0.0, 0.0, 0.07, 0.2),
        std=(0.1, 0.1, 0.03, 0.4),
        min=(-0.2, -0.2, 0.0, 0.0),
        max=(0.2, 0.2, 0.14, 1.0),
        q01=(-0.19, -0.19, 0.01, 0.0),
        q99=(0.19, 0.19, 0.13, 1.0),
        normalization=("quantile", "quantile", "quantile", "none"),
    )
    return Statistics(dataset="random", action=action, state=state, num_transitions=100, num_trajectories=5)


@pytest.fixture(scope="session")
def tiny_contract(tiny_config_record: OpenVLAConfig) -> Contract:
    def group(name: str, dimension: int, unit: str, representation: str, gripper: Gripper | None) -> Group:
        frame = "table" if gripper is None else "none"
        return Group(
            name=name,
            dimension=dimension,
            unit=unit,
            frame=frame,
            representation=representation,
            rotation="none",
            normalization="quantile" if gripper is None else "none",
            gripper=gripper,
        )

    suction = Gripper(engaged=1.0, released=0.0)
    body = Embodiment(
        name="tabletop",
        cameras=(Camera(role="front", key="observation.images.front", height=64, width=64),),
        state_key="observation.state",
        state=(group("tool_position", 3, "m", "absolute", None), group("suction", 1, "1", "absolute", suction)),
        action_key="action",
        action=(group("tool_translation", 3, "m", "delta", None), group("suction", 1, "1", "absolute", suction)),
        control_hz=10.0,
    )
    rule = ImageRule(
        height=64,
        width=64,
        resize="resize-naive",
        center_crop_area=1.0,
        means=((0.5, 0.5, 0.5),),
        deviations=((0.5, 0.5, 0.5),),
    )
    size = tiny_config_record.vocabulary_size
    given = Given(image=rule, prompt=PROMPT, vocabulary_size=size)
    part = given.part(BinTokenizer(uniform_edges(256), size), decoding="parallel")
    return Contract(
        version=4,
        embodiment=body,
        horizon=4,
        execute_steps=4,
        resolution=part.resolution,
        model=part.record,
        precision="fp32",
        statistics=_statistics(),
    )


@pytest.fixture
def tiny_head(tiny_contract: Contract) -> ParallelTokenHead:
    return ParallelTokenHead(space_of(tiny_contract, stop_id=2))


@pytest.fixture
def tiny_batch(tiny_contract: Contract, tiny_tokenizer, tiny_head: ParallelTokenHead) -> Batch:
    """Three labelled samples with random pixels and actions; the last one's chunk runs past its episode."""
    generator = np.random.default_rng(0)
    prompt = ParallelPrompt(tiny_tokenizer, tiny_contract.model["prompt"], num_codes=16)
    samples = []
    for row, sentence in enumerate(SENTENCES[:3]):
        actions = generator.uniform(-1, 1, (4, 4)).astype(np.float32)
        mask = np.ones((4, 4), dtype=bool)
        mask[4 - row :] = row < 1
        sample = {
            "pixel_values": generator.normal(size=(1, 3, 64, 64)).astype(np.float32),
            "state": generator.uniform(-1, 1, 4).astype(np.float32),
            "actions": actions,
            "action_mask": mask,
            "index": np.array([row, 0]),
            "instruction": sentence,
            "codes": tiny_head.space.tokenizer.encode(actions),
            "code_mask": mask.reshape(-1),
        }
        samples.append(prompt(sample))
    return collate(samples, pad_id=tiny_contract.model["action_tokens"]["vocabulary_size"])


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    port: int
    server: PolicyServer

    @property
    def url(self) -> str:
        return f"ws://localhost:{self.port}"


@pytest.fixture
def served(tiny_contract: Contract):
    """Serves `act` until the block ends."""

    @contextmanager
    def run(
        act: Callable, *, security: Security | None = None, rows: int = 4, contracts=None, port: int = 0, adapters=None
    ) -> Iterator[Address]:
        server = PolicyServer(
            Worker(act, rows=rows, seconds=60.0),
            contracts or {"default": tiny_contract},
            security or Loopback(),
            Metrics(),
            adapters or FixedAdapters(),
        )
        with serving_in_background(server, "localhost", port) as found:
            yield Address(found, server)

    return run


@pytest.fixture
def echo():
    """Actions that are the state, so that answers cannot be mistaken."""

    def act(observations, names):
        return [np.tile(observation.state.astype(np.float32), (4, 1)) for observation in observations]

    return act


@dataclass(eq=False)
class Turned:
    """A clock that jumps to where one would sleep until, once the policy has answered what it can answer by then.

    The policy's thread is the real one. It answers at once, or after the seconds of this clock that it says it `takes`.
    """

    time: float = 100.0
    answers_at: float | None = None
    """When the policy will answer what it was asked; nothing is asked where this is None."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def now(self) -> float:
        return self.time

    def sleep_until(self, when: float) -> None:
        with self.changed:
            self.time = max(self.time, when)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.answers_at is None or self.answers_at > self.time, 60)

    def takes(self, seconds: float) -> None:
        """Waits in the policy's thread."""
        with self.changed:
            self.answers_at = self.time + seconds
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.answers_at is None or self.answers_at <= self.time, 60)

    def expect(self, when: float | None) -> None:
        with self.changed:
            self.answers_at = when
            self.changed.notify_all()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turned]:
    """The clock of a controlled robot and of the policy's thread."""
    turned = Turned()

    class Expected(Inference):
        def ask(self, seen: Seen, *, played: int) -> None:
            turned.expect(turned.time)
            super().ask(seen, played=played)

        def _put(self, computed: Computed) -> None:
            super()._put(computed)
            turned.expect(None)

    monkeypatch.setattr(loop, "Inference", Expected)
    yield turned
    turned.expect(None)  # who still waits may go


@dataclass(frozen=True)
class Chaotic:
    """Acts as the last bits of what it sees say: any difference between two runs grows."""

    low: tuple[float, ...] = (-0.03, -0.03, -0.03, 0)
    high: tuple[float, ...] = (0.03, 0.03, 0.02, 1)

    def act(self, observations):
        return np.stack([self.chunk(observation) for observation in observations])

    def chunk(self, observation):
        words = np.frombuffer(observation.state.tobytes() + observation.images["front"].tobytes(), np.uint32)
        generator = np.random.default_rng([int(words.sum()), *observation.instruction.encode()])
        return generator.uniform(self.low, self.high, (4, 4)).astype(np.float32)

    def reset(self):
        pass


@pytest.fixture
def chaotic() -> Chaotic:
    """Moves as the tabletop's tool does."""
    return Chaotic()


@dataclass(frozen=True)
class Original:
    """One of the tiny models that the original code was run on (golden README §2, §3), and what the original computed.

    openvla c8f03f4 on transformers 4.40.1, torch 2.2.0 and timm 0.9.10, in float32 on a CPU. Their weights are random numbers that
    each tensor's seed gives; the manifest holds the hash of every tensor.
    """

    name: str
    folder: Path
    """As published; the weights are bfloat16."""

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((GOLDEN / self.name / "meta.json").read_text())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        return dict(np.load(GOLDEN / self.name / f"{name}.npz"))

    def model(self) -> OpenVLA:
        """In float32, as the original computed."""
        return OpenVLACheckpoint(str(self.folder), base="fp32").load(device="cpu")


def splitmix64(seed: int, count: int) -> np.ndarray:
    """The first numbers of the generator (Steele, Lea and Flood 2014), in [-1, 1)."""
    with np.errstate(over="ignore"):
        state = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return 2 * (state >> np.uint64(11)).astype(np.float64) / 2**53 - 1


def centre_and_spread(name: str, shape: list[int]) -> tuple[float, float]:
    """Between which numbers the weights of a tensor lie."""
    leaf = name.rpartition(".")[2]
    known = {"scale_factor": (0.75, 0.5), "bias": (0.0, 0.2)}
    if leaf in known:
        return known[leaf]
    if "norm" in name:
        return 1.0, 0.3
    if "embed_tokens" in name:
        return 0.0, 0.8
    if leaf != "weight":  # positions, class and register tokens
        return 0.0, 0.5
    return 0.0, math.sqrt((12 if "lm_head" in name else 3) / math.prod(shape[1:]))


def golden_weights(name: str) -> dict[str, torch.Tensor]:
    """Every weight of an original model, bfloat16; those of the action codes are thrice as large, so that they win."""
    weights = {}
    for key, entry in json.loads((GOLDEN / name / "weights_manifest.json").read_text()).items():
        shape = entry["shape"]
        centre, spread = centre_and_spread(key, shape)
        numbers = (centre + spread * splitmix64(entry["seed"], math.prod(shape))).reshape(shape)
        if "lm_head" in key:
            numbers[-64 - 256 : -64] *= 3
        weights[key] = torch.from_numpy(numbers.astype(np.float32)).to(torch.bfloat16)
        assert hashlib.sha256(weights[key].float().numpy().tobytes()).hexdigest() == entry["sha256_f32"], key
    return weights


def write_original(name: str, folder: Path) -> Original:
    """A published folder; `timm_kwargs`, which the original's run added to its timm calls, is ours."""
    folder.mkdir()
    for file in FILES:
        shutil.copy(GOLDEN / name / file, folder / file)
    for file in (GOLDEN / "tokenizer_tiny").iterdir():
        shutil.copy(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text())
    small = json.loads((GOLDEN / "tiny_vit_kwargs.json").read_text())
    config["timm_kwargs"] = [small[tower] for tower in config["timm_model_ids"]]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(golden_weights(name), folder / "model.safetensors", metadata={"format": "pt"})
    return Original(name, folder)


@pytest.fixture(scope="session")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """DINOv2 and SigLIP, a plain Llama with 32,064 rows; its tokenizer, which is Llama-2's, is not here: ids are stored."""
    return write_original("fused", tmp_path_factory.mktemp("original") / "fused")


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """SigLIP alone, Vicuna's prompt and a tokenizer of 800 pieces."""
    return write_original("siglip", tmp_path_factory.mktemp("original") / "siglip")


@pytest.fixture(scope="session", params=["fused", "siglip"])
def original(request: pytest.FixtureRequest) -> Original:
    """Each of them."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def robot_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Demonstrations of a robot that ships in conf/embodiment, with small pictures: the words that name both."""

    @cache
    def record(name: str) -> list[str]:
        plain = yaml.safe_load((CONF / "embodiment" / f"{name}.yaml").read_text())
        for camera in plain["cameras"]:
            camera |= {"height": 32, "width": 32}
        body, folder, rng = embodiment_from_record(plain), tmp_path_factory.mktemp("robots") / name, np.random.default_rng(0)
        write_episodes(folder, [[frame(body, rng) for _ in range(4)] for _ in range(3)], embodiment=body, storage=Storage("image"))
        sizes = [f"data.embodiment.cameras.{n}.{side}=32" for n in range(len(body.cameras)) for side in ("height", "width")]
        return [f"data.sources.0.folder={folder}", f"embodiment@data.embodiment={name}", *sizes]

    return record


@pytest.fixture(scope="session")
def few() -> list[str]:
    """The words of a run that ends at once."""
    return [
        "training.steps=2",
        "training.batch_size=1",
        "training.gradient_accumulation=1",
        "validation.frames=2",
        "validation.predicted=1",
        "validation.seen=1",
        "evaluation.rows=2",
        "evaluation.frames=2",
        "evaluation.drawn=1",
        "evaluation.probed=2",
        "model.cache=null",
        "device=cpu",
    ]


def frame(body: Embodiment, rng: np.random.Generator) -> dict[str, Any]:
    """Noise, where the robot has a camera or a joint."""
    pictures = {camera.key: rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for camera in body.cameras}
    joints = {
        key: np.concatenate([rng.uniform(0, SPANS[group.unit], group.dimension) for group in groups]).astype(np.float32)
        for key, groups in ((body.state_key, body.state), (body.action_key, body.action))
    }
    return pictures | joints | {"task": "lift the red block"}


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that live on a device while it is entered, those of backward passes included."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device, self.now, self.peak, self.ignored = device, 0, 0, set[int]()
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def without(self, model: nn.Module) -> "Live":
        """The same; what `model` holds is not counted."""
        self.ignored |= {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
        return self

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        known = self._seen.get(place)
        if place in self.ignored:
            return
        if known is not None and known() is storage:
            return

        def gone(reference: weakref.ref[torch.UntypedStorage]) -> None:
            self.now -= size
            if self._seen.get(place) is reference:
                del self._seen[place]

        self._seen[place] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


@pytest.fixture
def live() -> Live:
    return Live()
