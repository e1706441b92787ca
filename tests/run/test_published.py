"""Downloaded policies through the commands' own functions act on the same frames as the original does (golden README)."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vla_tune.check.finding import CheckFailedError
from vla_tune.data.sampling import centre_box, crop_resized
from vla_tune.record import Storage
from vla_tune.record.writer import write_episodes
from vla_tune.run.check import check
from vla_tune.run.evaluate import evaluate_run
from vla_tune.run.export import export_run
from vla_tune.run.objects import load_policy
from vla_tune.run.published import is_published, named_folder, stated_contract
from vla_tune.run.serve import _policies

GOLDEN = Path(__file__).parents[1] / "golden"
OFT = GOLDEN / "oft"
ACTIONS = np.load(OFT / "oft.npz")
LIBERO = "libero_tiny"
PIECES = Regex(r"▁draw(?=er)|▁?[A-Za-z]+|[^A-Za-z▁]")
"""Of the golden prompts in Llama-2's eyes."""


@dataclass
class Frames(gymnasium.Env):
    """Shows the same frame again and again, and remembers what it was told to do."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str
    steps: int
    told: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        pictures: dict[str, gymnasium.Space] = {
            name: gymnasium.spaces.Box(0, 255, image.shape, np.uint8) for name, image in self.images.items()
        }
        spaces: dict[str, gymnasium.Space] = {
            "images": gymnasium.spaces.Dict(pictures),
            "state": gymnasium.spaces.Box(-9, 9, self.state.shape),
            "instruction": gymnasium.spaces.Text(200),
        }
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (7,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.told.clear()
        return self._shown(), {}

    def step(self, action):
        self.told.append(action.copy())
        over = len(self.told) == self.steps
        return self._shown(), 0.0, over, False, {"success": over}

    def _shown(self):
        return {"images": self.images, "state": self.state, "instruction": self.instruction}


def picture(name: str) -> np.ndarray:
    return np.asarray(Image.open(GOLDEN / name).convert("RGB"))


@pytest.fixture
def played(configuration, tmp_path: Path) -> Callable[..., np.ndarray]:
    """What `scripts/eval.py` lets a policy do in an environment."""

    def play(frames: Frames, *overrides: str) -> np.ndarray:
        gymnasium.register("Frames-v0", lambda **_: frames, max_episode_steps=100)
        try:
            words = [
                "env.make.id=Frames-v0",
                "task=look",
                "evaluation.episodes=1",
                "evaluation.num_envs=1",
                "evaluation.rows=1",
                "cells=again",
            ]
            evaluate_run(configuration("eval", *words, "device=cpu", "precision=fp32", *overrides), tmp_path / "results")
        finally:
            del gymnasium.registry["Frames-v0"]
        return np.array(frames.told)

    return play


def in_float32(folder: Path) -> None:
    """As the original computed."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.float() for name, tensor in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def llama_2(folder: Path, ids: dict[str, int]) -> None:
    """A tokenizer that reads the golden prompts as Llama-2's does, which is not here; of other words it knows those of probes."""
    known = {f"▁{word}": 5000 + place for place, word in enumerate(["push", "be", "ready", "do", "not", "but", "wait"])}
    known |= {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 29871, "<PAD>": 32000}
    tokenizer = Tokenizer(models.WordLevel(ids | known, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(PIECES, "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    for path in folder.glob("*token*"):
        path.unlink()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<PAD>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def ids_of(case: dict[str, Any]) -> dict[str, int]:
    """Pieces of a golden prompt -> its ids."""
    text = "▁" + case["prompt"].replace(" ", "▁")
    found = [piece for piece, _ in pre_tokenizers.Split(PIECES, "isolated").pre_tokenize_str(text)]
    return dict(zip(found, case["input_ids"][1:], strict=True))


@pytest.fixture(scope="module")
def openvla(siglip, fused, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The golden OpenVLA folders, in float32."""
    folders = {}
    for original in (siglip, fused):
        folders[original.name] = tmp_path_factory.mktemp("published") / original.name
        shutil.copytree(original.folder, folders[original.name])
        in_float32(folders[original.name])
    ids: dict[str, int] = {}
    for case in fused.meta["predict"]:
        ids |= ids_of(case)
    llama_2(folders["fused"], ids)
    return folders


@pytest.fixture
def oft(openvla: dict[str, Path], fused, tmp_path: Path) -> Path:
    """The golden OpenVLA-OFT folder: a head that regresses, the state of a robot, two cameras; its data set bears LIBERO's name."""
    folder = tmp_path / "oft"
    shutil.copytree(openvla["fused"], folder)
    held = load_file(OFT / "heads.safetensors")
    for part in ("action_head", "proprio_projector"):
        state = {name.removeprefix(f"{part}."): tensor for name, tensor in held.items() if name.startswith(part)}
        torch.save(state, folder / f"{part}--150000_checkpoint.pt")
    record = json.loads((folder / "dataset_statistics.json").read_text())["tiny_mask"]
    ends = {"q01": -1.0, "q99": 1.0, "min": -1.0, "max": 1.0, "mean": 0.0, "std": 1.0}
    record["proprio"] = {name: [value] * 8 for name, value in ends.items()}
    (folder / "dataset_statistics.json").write_text(json.dumps({LIBERO: record}))
    return folder


@pytest.mark.parametrize("name", ["siglip", "fused"])
@pytest.mark.parametrize("row", range(3))
def test_openvla_acts_as_the_original(openvla: dict[str, Path], played, request, name: str, row: int):
    case = request.getfixturevalue(name).meta["predict"][row]
    image = picture(f"image/{Path(case['image_png']).name}")
    frames = Frames({"front": image}, np.zeros(5, np.float32), case["instruction"], steps=1)
    size = "x".join(map(str, image.shape[:2]))
    words = ["control_hz=5", f"cameras={{front:{size}}}", "decoding=full"]
    for key, actions in case["actions"].items():
        told = played(frames, f"run={openvla[name]}", f"unnorm_key={key}", *words)
        np.testing.assert_allclose(told, [actions], rtol=0, atol=1e-6)


def test_oft_acts_as_the_original(oft: Path, played, capsys):
    images = {"front": picture("train_224_0.png"), "wrist": picture("train_224_1.png")}
    frames = Frames(images, ACTIONS["train_proprio"][0], "Pick up the red block", steps=8)
    words = ["control_hz=20", "cameras={front:224x224,wrist:224x224}", "pictures=processor"]
    told = played(frames, f"run={oft}", *words)
    np.testing.assert_allclose(told, ACTIONS["l1_2img_proprio_actions"], rtol=0, atol=1e-5)
    said = capsys.readouterr().out
    for line in (
        "statistics of libero_tiny: 6 of 7 dimensions by quantile",
        "gripper: 0 closes, 1 opens",
        "chunk: 8, numbers at once, fp32",
        "cameras: front 224 x 224, wrist 224 x 224; 20 actions per second",
    ):
        assert line in said


def test_codes_in_parallel_are_the_originals(openvla: dict[str, Path], played):
    """No file tells an OFT policy that speaks codes from an OpenVLA: the user does."""
    frames = Frames({"front": picture("train_224_0.png")}, np.zeros(3, np.float32), "Pick up the red block", steps=8)
    words = ["unnorm_key=tiny_mask", "control_hz=5", "cameras={front:224x224}", "horizon=8"]
    told = played(frames, f"run={openvla['fused']}", *words)
    np.testing.assert_allclose(told, ACTIONS["discrete_1img_actions"], rtol=0, atol=1e-6)


def test_what_was_fine_tuned_sees_as_in_the_originals_evaluation_on_libero(oft: Path, played):
    """JPEG and Lanczos as the golden picture, of which the middle is cut out (both are TensorFlow's within a grey level)."""
    state, words = ACTIONS["train_proprio"][0], [f"run={oft}", "control_hz=20"]

    def acted(image: np.ndarray, *more: str) -> np.ndarray:
        size = "x".join(map(str, image.shape[:2]))
        frames = Frames({"front": image, "wrist": image}, state, "Pick up the red block", steps=8)
        return played(frames, *words, f"cameras={{front:{size},wrist:{size}}}", *more)

    raw, golden = picture("rlds_tf/in_256.png"), picture("rlds_tf/libero_256.png")
    seen = acted(raw)
    wanted = acted(crop_resized(golden, centre_box(0.9), 224, 224), "pictures=processor")
    assert np.abs(seen - wanted).max() < 0.1 * np.abs(acted(raw, "pictures=processor") - wanted).max()


def test_what_is_not_known_is_asked_for_at_once(openvla: dict[str, Path], oft: Path, configuration):
    def refused(folder: Path, *words: str) -> str:
        with pytest.raises(ValueError, match="published policy") as error:
            stated_contract(configuration("eval", f"run={folder}", "task=look", *words), folder)
        return str(error.value)

    said = refused(openvla["siglip"])
    for word in ("unnorm_key=<the data set of your robot: tiny_mask, tiny_nomask>", "control_hz=<", "cameras={front: 256x256}"):
        assert word in said
    assert "horizon" not in said
    assert "horizon=<actions in a chunk: 8 for OFT's LIBERO" in refused(other_name(oft), "published=bridge", "unnorm_key=arm")


def other_name(oft: Path) -> Path:
    """The statistics of a data set that names no known robot."""
    path = oft / "dataset_statistics.json"
    path.write_text(path.read_text().replace(LIBERO, "arm"))
    return oft


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unnorm_key=nobody"], "no statistics for unnorm_key='nobody'; it has tiny_mask, tiny_nomask"),
        (["precision=int8"], "precision='int8': choose one of bf16, fp32"),
        (["cameras={front: wide}"], "write the height and width of its pictures as 256x256"),
        (["control_hz=fast"], "control_hz='fast' must be a number"),
        (["horizon=0"], "horizon=0 must be a whole number"),
        (["horizon=3"], r"predicts 3 x 7 actions, .* say normalization="),
        (["pictures=nice"], "pictures='nice': choose one of processor, resized, fine_tuned"),
        (["predicts=regression"], "has no action head"),
        (["embodiment=tabletop"], "leave out cameras= and control_hz="),
        (["embodiment=tabletop", "cameras=null", "control_hz=null"], "predicts 1 x 4 actions"),
    ],
)
def test_what_contradicts_is_refused(openvla: dict[str, Path], configuration, words: list[str], message: str):
    plain = ["unnorm_key=tiny_mask", "control_hz=5", "cameras={front: 256x256}"]
    with pytest.raises(ValueError, match=message):
        stated_contract(configuration("eval", "run=x", "task=look", *plain, *words), openvla["siglip"])


def test_words_for_a_folder_that_needs_none(base: Path, configuration):
    assert not is_published(base)
    assert stated_contract(configuration("eval", f"run={base}", "task=look"), base) is None
    with pytest.raises(ValueError, match=r"unnorm_key= is said of published policies, and .* is none"):
        stated_contract(configuration("eval", f"run={base}", "task=look", "unnorm_key=any"), base)


def test_a_name_of_the_hub(monkeypatch, tmp_path: Path):
    """One line with the remedy where there is no network; a folder is never looked for there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    asked = []
    monkeypatch.setattr("vla_tune.run.published.checkpoint_folder", lambda name: asked.append(name) or Path(name))
    assert named_folder("runs/misspelt") == Path("runs/misspelt")
    assert named_folder("openvla/openvla-7b") == Path("openvla/openvla-7b")
    assert asked == ["openvla/openvla-7b"]


def test_it_is_served_only_on_the_users_word(openvla: dict[str, Path], configuration):
    words = [f"policy={openvla['siglip']}", "unnorm_key=tiny_mask", "control_hz=5", "cameras={front: 64x64}", "device=cpu"]
    served = _policies(configuration("serve", *words))
    with pytest.raises(ValueError, match=r"holds no probe\.safetensors"):
        served.examined(unproved=False)
    assert served.examined(unproved=True) == []


def test_export_without_frames_needs_the_users_word(openvla: dict[str, Path], configuration, tmp_path: Path):
    folder = openvla["siglip"]
    words = [f"run={folder}", "unnorm_key=tiny_mask", "control_hz=5", "cameras={front: 64x64}"]
    with pytest.raises(ValueError, match="recorded=<the folder of a LeRobotDataset>"):
        export_run(configuration("export", *words, f"to={tmp_path / 'robot'}"))
    with pytest.raises(ValueError, match="lies in the published folder"):
        export_run(configuration("export", *words, "unproved=true"))
    assert export_run(configuration("export", *words, f"to={tmp_path / 'robot'}", "unproved=true")) is None
    assert not is_published(tmp_path / "robot" / "hf")
    assert load_policy(tmp_path / "robot", rows=1, device="cpu").policy.contract.statistics.dataset == "tiny_mask"


def test_recorded_frames_examine_it_and_go_along(oft: Path, configuration, tmp_path: Path):
    words = ["control_hz=20", "cameras={front:32x32,wrist:32x32}", f"recorded={tmp_path / 'data'}", "device=cpu"]
    exported = [f"run={oft}", *words[:3], f"to={tmp_path / 'robot'}", "frames=3"]
    contract = stated_contract(configuration("export", *exported), oft)
    assert contract is not None
    body, noise = contract.embodiment, np.random.default_rng(0)

    def frame() -> dict[str, Any]:
        images = {camera.key: noise.integers(0, 256, (32, 32, 3), dtype=np.uint8) for camera in body.cameras}
        state, action = (noise.uniform(-1, 1, size).astype(np.float32) for size in (8, 7))
        return images | {body.state_key: state, body.action_key: action, "task": "Pick up the red block"}

    write_episodes(tmp_path / "data", [[frame() for _ in range(9)] for _ in range(2)], embodiment=body, storage=Storage("image"))
    export_run(configuration("export", *exported))
    (kept,) = check(configuration("check", f"policy={tmp_path / 'robot'}", "device=cpu"))
    assert kept.passed
    with pytest.raises(CheckFailedError, match=r"recorded actions, .*scale"):  # they are noise
        check(configuration("check", f"run={oft}", *words, "frames=3", f"json={tmp_path / 'found.json'}"))
    found = {finding["probe"]: finding for finding in json.loads((tmp_path / "found.json").read_text())}
    assert found["image"]["passed"]
    assert not {"statistics", "adapter"} & found.keys()
    assert not (oft / "check.json").exists()
