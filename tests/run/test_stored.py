"""A run's folder may be a stranger's: nothing in it runs, and nothing in it is looked up."""

import re
import shutil
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.models.sealed import seal
from vla_tune.run.chosen import chosen_run
from vla_tune.run.folder import asset, load_config, task_of
from vla_tune.run.objects import load_base, load_policy
from vla_tune.run.opening import opened_run
from vla_tune.run.shared import load_shared
from vla_tune.run.sources import harmless
from vla_tune.run.stored import OPTIONS, adapter_of, checkpoint_of, data_of, environment_of, loading
from vla_tune.schema import Contract
from vla_tune.workers import process

CONF = Path(__file__).parents[2] / "conf"
MODEL = {"_target_": "vla_tune.models.openvla.OpenVLACheckpoint", "folder": asset("tiny"), "base": "bf16"}
ADAPTER = {"_target_": "vla_tune.adapters.Lora", "rank": 1, "alpha": 1, "targets": ["q_proj"]}
ENVIRONMENT = {"_target_": "gymnasium.make", "_partial_": True, "id": "envs:vla_tune/Tabletop-v0"}
DEMONSTRATED = "vla_tune.record.source.Demonstrated"
DATA = {"_target_": "vla_tune.data.sources.load_demonstrations", "sources": []}


class Stranger:
    """A folder that tries to leave a mark."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, folder.parent / "mark"
        (folder / "adapter").mkdir(parents=True)
        shutil.copy(Path(asset("tiny"), "contract.json"), folder)
        shutil.copy(Path(asset("tiny"), "contract.json"), folder / "adapter")
        (folder / "hubconf.py").write_text(f"import os\nos.mkdir({str(self.mark)!r})\ndef model():\n    return 1\n")
        with zipfile.ZipFile(folder / "evil.pt", "w") as file:  # what `torch.load` runs: os.mkdir(mark)
            file.writestr("e/data.pkl", f"cposix\nmkdir\n(V{self.mark}\ntR.".encode())
            file.writestr("e/version", "3\n")

    @property
    def load(self) -> dict[str, Any]:
        return {"f": str(self.folder / "evil.pt"), "weights_only": False}

    def write(self, **parts: Any) -> Path:
        record = {
            "model": MODEL,
            "adapter": ADAPTER,
            "data": DATA,
            "env": {"suite": "tabletop", "make": ENVIRONMENT},
            "task": "lift",
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump(record | parts))
        return self.folder


@pytest.fixture
def stranger(tmp_path: Path) -> Stranger:
    return Stranger(tmp_path / "run")


def tampered(stranger: Stranger) -> dict[str, dict[str, Any]]:
    """What a stranger may have made of a configuration, by the way it takes."""
    mark, load = str(stranger.mark), stranger.load
    written = {"_target_": "vla_tune.run.folder.Path.write_text", "_args_": [{"_target_": "pathlib.Path", "_args_": [mark]}, "x"]}
    return {
        "a function": {"model": {"_target_": "os.mkdir", "path": mark}},
        "a name that a module of ours imports": {"model": {"_target_": "vla_tune.run.objects.torch.load", **load}},
        "a name that torch imports": {"model": {"_target_": "torch.optim.adam.torch.load", **load}},
        "torch's hub": {
            "model": {"_target_": "torch.hub.load", "repo_or_dir": str(stranger.folder), "model": "model", "source": "local"}
        },
        "a method": {"adapter": written},
        "a copy": {"adapter": {"_target_": "vla_tune.models.files.shutil.copytree", "src": str(stranger.folder), "dst": mark}},
        "an option in another place": {"model": {"_target_": "vla_tune.record.source.Recorded", "folder": mark}},
        "inside an option": {"model": MODEL | {"folder": {"_target_": "os.mkdir", "path": mark}}},
        "inside a list": {"adapter": ADAPTER | {"targets": [{"_target_": "os.mkdir", "path": mark}]}},
        "inside a mapping": {"model": MODEL | {"additions": {"film": {"_target_": "os.mkdir", "path": mark}}}},
        "no list of arguments": {"model": MODEL | {"_args_": [mark]}},
        "no partial": {"adapter": ADAPTER | {"_partial_": True}},
        "no words inside": {"model": MODEL | {"additions": {"_recursive_": False}}},
        "a node elsewhere": {"model": "${evil}", "evil": {"_target_": "torch.load", **load}},
        "a resolver": {"model": MODEL | {"folder": "${oc.select:evil}"}, "evil": {"_target_": "torch.load", **load}},
        "a variable of the environment": {"model": MODEL | {"folder": "/nowhere/${oc.env:STRANGERS_SECRET}"}},
        "where nobody reads": {"note": "${oc.env:STRANGERS_SECRET}"},
        "no mapping": {"model": ["vla_tune.adapters.Lora"]},
        "other arguments": {"model": {"_target_": MODEL["_target_"], "nonsense": 1}},
    }


WAYS = {
    "load_policy": lambda run: load_policy(run, rows=1, device="cpu"),
    "load_base": lambda run: load_base(run, rows=1, device="cpu"),
    "load_shared": lambda run: load_shared({"one": run}, rows=1, device="cpu"),
    "adapter and base": lambda run: (checkpoint_of(run), adapter_of(run)),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_a_strangers_folder_runs(stranger: Stranger, way: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STRANGERS_SECRET", "hf_secret")
    monkeypatch.setattr(OpenVLACheckpoint, "load", lambda *_, **__: pytest.fail("it was loaded"))
    for name, parts in tampered(stranger).items():
        run = stranger.write(**parts)
        if way == "load_base" and "adapter" in parts:
            continue  # which it does not read
        if way == "load_shared" and "adapter" in parts:
            continue  # it comes after the base; `add` below
        with pytest.raises((ValueError, FileNotFoundError), match=str(run)) as caught:
            WAYS[way](run)
        assert not stranger.mark.exists(), name
        assert "hf_secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_nothing_of_a_folder_runs_that_joins_a_server(stranger: Stranger, run_of, base):
    shared = load_shared({"one": run_of("one", adapter="lora_r2", seed=1)}, rows=1, device="cpu")
    other = run_of("other", adapter="lora_r2", seed=2)
    for name, parts in tampered(stranger).items():
        shutil.copy(stranger.write(**parts) / "config.yaml", other)
        with pytest.raises((ValueError, FileNotFoundError), match=str(other)):
            shared.add("other", other)
        assert not stranger.mark.exists(), name
        assert list(shared.contracts) == list(shared.policies.names) == ["one"]


@pytest.mark.parametrize("where", ["data", "env"])
def test_nothing_runs_where_a_run_is_checked_or_merged(stranger: Stranger, where: str):
    mark = str(stranger.mark)
    read = data_of if where == "data" else environment_of
    attacks: list[dict[str, Any]] = [
        {"_target_": "os.mkdir", "path": mark},
        {"_target_": "gymnasium.make", "id": "antigravity:Tabletop-v0"},
        {"_target_": "gymnasium.make", "id": ENVIRONMENT["id"], "_args_": ["x"]},
        {"_target_": "gymnasium.make", "id": [ENVIRONMENT["id"]]},
        {"_target_": "vla_tune.translation.in_interpreter", "python": mark, "make": {"_target_": "os.mkdir", "path": mark}},
        DATA | {"sources": {"one": {"_target_": DEMONSTRATED, "folder": "f", "make": {"_target_": "os.mkdir", "path": mark}}}},
        DATA | {"sources": [[{"_target_": DEMONSTRATED, "folder": "f", "make": {"_target_": "os.mkdir", "path": mark}}]]},
        DATA | {"chunks": {"_target_": DEMONSTRATED, "folder": "f", "expert": {"_target_": "envs.libero.expert.Scripted"}}},
        DATA | {"sources": [{"_target_": "os.mkdir", "path": mark}]},
        DATA | {"_convert_": "object"},
        DATA | {"chunks": {"_target_": "vla_tune.run.folder.Path.mkdir", "_args_": [mark]}},
    ]
    for attack in attacks:
        run = stranger.write(**{where: attack if where == "data" else {"make": attack}})
        with pytest.raises(ValueError, match=r"config\.yaml"):
            read(run)
    assert not stranger.mark.exists()


OURS = {"_target_": "vla_tune.translation.Registered", "id": ENVIRONMENT["id"]}
WAYS_TO_TRANSLATE: dict[str, dict[str, Any]] = {
    "an interpreter": {
        "_target_": "vla_tune.translation.in_interpreter",
        "python": "/stranger/python",
        "make": {"_target_": "os.getcwd"},
    },
    "an interpreter that makes what is translated": {
        "environment": {
            "_target_": "vla_tune.translation.in_interpreter",
            "id": OURS["id"],
            "python": "/stranger/python",
            "make": {},
        }
    },
    "a module": {"environment": OURS | {"id": "strangers_module:Env-v0"}},
    "a name that is a list": {"environment": OURS | {"id": [OURS["id"]]}},
    "no name": {"environment": OURS | {"id": {"a": 1}}},
    "another class of ours": {"environment": {"_target_": "envs.libero.environment.Libero", "id": OURS["id"]}},
    "a module in a part": {"cameras": {"wrist": OURS | {"id": "strangers_module:Env-v0"}}},
    "a module in a part of a part": {
        "cameras": {
            "wrist": {
                "_target_": "vla_tune.translation.Sentences",
                "of": {"lift": OURS | {"id": "strangers_module:Env-v0"}},
            }
        }
    },
    "a module in an argument": {"environment": OURS | {"arguments": {"cameras": OURS | {"id": "strangers_module:Env-v0"}}}},
    "an expert": {"instruction": {"_target_": "envs.libero.expert.Scripted"}},
    "a method": {"instruction": {"_target_": "vla_tune.translation.FromCall", "path": "close"}},
    "a method beside the one that is meant": {
        "instruction": {"_target_": "vla_tune.translation.FromCall", "path": "picture"},
        "distractor": {"_target_": "vla_tune.translation.FromCall", "path": "close"},
    },
    "a setter": {"starts": {"_target_": "vla_tune.translation.StoredStarts", "states": {}, "set": "__init__"}},
    "a method that observes": {
        "starts": {"_target_": "vla_tune.translation.StoredStarts", "states": {}, "set": "put", "observe": "close"}
    },
    "a file": {
        "starts": {
            "_target_": "vla_tune.translation.StoredStarts",
            "states": {"_target_": "vla_tune.translation.StatesInFile", "file": "/etc/passwd"},
            "set": "put",
        }
    },
    "a seed": {"seed": {"_target_": "vla_tune.translation.SeedCall", "path": "close"}},
}


@pytest.mark.parametrize("way", WAYS_TO_TRANSLATE)
def test_a_translated_environment_of_a_stranger_only_reads(
    stranger: Stranger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
):
    """Neither a module of the stranger's is imported, nor an interpreter started, nor a method called that is not meant for it."""
    (tmp_path / "strangers_module.py").write_text(f"import os\nos.mkdir({str(stranger.mark)!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(process, "Popen", lambda *_, **__: pytest.fail("an interpreter was started"))
    make = {"_target_": "vla_tune.translation.translated", "_partial_": True, "environment": OURS} | WAYS_TO_TRANSLATE[way]
    run = stranger.write(env={"make": make})
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        environment_of(run)
    assert "\n" not in str(caught.value)
    assert not stranger.mark.exists()


def test_an_exported_folder_is_read_without_a_configuration_beside_it(stranger: Stranger):
    shutil.copytree(asset("tiny"), stranger.folder / "hf")
    run = stranger.write(model={"_target_": "os.mkdir", "path": str(stranger.mark)})
    (run / "hf" / "config.yaml").write_text("model: {_target_: os.mkdir}\n")
    assert load_policy(run, rows=1, device="cpu").folders == (run / "hf",)
    assert not stranger.mark.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "os.system"}, "which is not opened unseen"),
        ({"family": "vla_tune.run.folder.read_config"}, "which is not opened unseen"),
        ({"family": "transformers"}, "extra fields found"),
        ({"surprise": 1}, "extra fields found (surprise)"),
        ({"decoding": "x" * 1000}, "must be one of parallel"),
        ({"location_codes": 10**9}, "1000000000 location_codes"),
        ({"action_tokens": {"kind": "bins", "vocabulary_size": 512, "edges": [[1.0, -1.0]]}}, "must not decrease"),
    ],
)
def test_what_is_the_models_is_looked_at_before_its_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
):
    folder = shutil.copytree(asset("tiny"), tmp_path / "merged")
    contract = Contract.load(folder)
    replace(contract, model=dict(contract.model) | changes).save(folder)
    seal(folder)
    monkeypatch.setattr(OpenVLACheckpoint, "load", lambda *_, **__: pytest.fail("its weights were read"))
    with pytest.raises(ValueError, match=re.escape(str(folder))) as caught:
        load_policy(folder, rows=1, device="cpu")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_the_task_of_a_stranger_is_a_text(stranger: Stranger):
    assert task_of(str(stranger.write())) == "lift"
    with pytest.raises(ValueError, match="interpolation"):
        task_of(str(stranger.write(task="${oc.env:HOME}")))
    with pytest.raises(ValueError, match="interpolation"):
        load_config(stranger.write(task="${oc.env:HOME}"))


def test_what_a_run_says_is_built(stranger: Stranger):
    nf4 = {"_target_": "vla_tune.models.nf4.NF4", "targets": ["q"]}
    film = {"film": {"_target_": "vla_tune.models.openvla.additions.Film"}}
    run = stranger.write(model=MODEL | {"nf4": nf4, "additions": film})
    checkpoint: Any = checkpoint_of(run)
    assert (checkpoint.folder, checkpoint.nf4.targets, list(checkpoint.additions)) == (asset("tiny"), ["q"], ["film"])
    assert checkpoint_of(run, folder=Path("elsewhere")).folder == "elsewhere"
    (run / "base").mkdir()
    assert checkpoint_of(run).folder == str(run / "base")
    env = environment_of(run)(task="lift")
    assert env.spec is not None
    env.close()


def test_whatever_fails_while_loading_is_one_line_that_names_the_folder():
    for error in (KeyError("a"), RecursionError(), TypeError("b\nc"), AttributeError("d"), MemoryError()):
        with pytest.raises(ValueError, match=f"there cannot be loaded .{type(error).__name__}") as caught, loading(Path("there")):
            raise error
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="as it is"), loading(Path("there")):
        raise OSError("as it is")


def targets(node: Any) -> list[str]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = [node["_target_"]] if isinstance(node, dict) and "_target_" in node else []
    return own + [target for child in children for target in targets(child)]


def test_every_option_can_be_read_back_and_exists():
    listed = {name for options in OPTIONS.values() for name in (*options.whole, *options.parts)}
    groups = ("model", "adapter", "addition", "data", "recording")
    written = {
        target for group in groups for path in CONF.glob(f"{group}/*.yaml") for target in targets(yaml.safe_load(path.read_text()))
    }
    assert written <= listed
    for name in listed:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(import_module(module), attribute))


NAMES = (
    ".lock",
    "contract.json",
    "metrics.jsonl",
    "origin.json",
    "results.json",
    "probe.safetensors",
    "steps",
    "checkpoints",
    "films",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_link_in_a_run_leads_nowhere_to_be_read_or_written(stranger: Stranger, tmp_path: Path, name: str):
    """Whether it is resumed, loaded, evaluated, merged or exported."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "key").write_text("a secret")
    run = stranger.write()
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(mine / "key" if "." in name else mine)
    choice = OmegaConf.create({"use": None, "step": None, "model": {"folder": None}})

    def resumed(run: Path) -> None:
        with opened_run(OmegaConf.create({"model": MODEL}), run):
            pytest.fail("it was opened")

    for way in (resumed, load_config, WAYS["load_policy"], lambda run: chosen_run(choice, run)):
        with pytest.raises(ValueError, match=f"{name} is a link that leads out"):
            way(run)
    assert [(path.name, path.read_text()) for path in mine.iterdir()] == [("key", "a secret")]


@pytest.mark.parametrize("task", ["../../../x", "a/b", "???", "", "x" * 200, "a\nb", {"a": 1}, None, ".."])
def test_a_task_is_a_name_in_one_folder(stranger: Stranger, task: Any):
    with pytest.raises(ValueError, match="names no task"):
        task_of(str(stranger.write(task=task)))


@pytest.mark.parametrize("name", ["Recorded", "Played"])
@pytest.mark.parametrize(("folder", "count"), [("/nowhere/rec", 2), ("../rec", 2), ("data/rec", 10**9)])
def test_nothing_is_recorded_anywhere_or_without_end(stranger: Stranger, name: str, folder: str, count: int):
    source = {"_target_": f"vla_tune.record.source.{name}", "folder": folder, "tasks": ["lift"], "episodes": count, "seed": 0}
    with pytest.raises(ValueError, match="would be recorded now"):
        data_of(stranger.write(data=DATA | {"sources": [source]}))


def test_what_an_expert_recorded_is_read_and_never_recorded(stranger: Stranger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither environment nor expert that the folder names is looked at."""
    monkeypatch.chdir(tmp_path)
    mark = {"_target_": "os.mkdir", "path": str(tmp_path / "mark")}
    source = {
        "_target_": "vla_tune.record.source.Demonstrated",
        "folder": "shown",
        "make": mark,
        "expert": dict(mark),
        "tasks": ["0"],
    }
    run = stranger.write(data=DATA | {"sources": [source]})
    with pytest.raises(ValueError, match=r"its data are not there \(shown\); an expert recorded them"):
        data_of(run)
    (tmp_path / "shown").mkdir()
    assert harmless([source, DATA], run) == [{"_target_": "vla_tune.data.sources.Local", "folder": "shown"}, DATA]
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("cache", "kept"),
    [
        ("~/.cache/vla_tune", True),
        ("~/.cache/vla_tune/../x", False),
        ("~/.cache/huggingface/x", False),
        ("/tmp/x", False),
        (["x"], False),
    ],
)
def test_weights_are_read_from_no_cache_but_the_users_own(stranger: Stranger, cache: Any, kept: bool, caplog):
    checkpoint: Any = checkpoint_of(stranger.write(model=MODEL | {"cache": cache}))
    assert checkpoint.cache == (cache if kept else None)
    assert ("is not used" in caplog.text) is not kept
