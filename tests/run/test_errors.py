import errno
import shlex
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import hydra
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from vla_tune.export import ParityError
from vla_tune.run.errors import one_line_errors
from vla_tune.run.objects import build
from vla_tune.training.interruption import TrainingInterrupted
from vla_tune.training.non_finite import NonFiniteLossError

CONF = Path(__file__).parents[2] / "conf"
MISTAKES = [
    ValueError("rank=0\n  must be positive:   write 1"),
    FileNotFoundError("runs/x is missing"),
    PermissionError("runs/x cannot be written"),
    NonFiniteLossError("loss is nan at step 3"),
    ParityError("token agreement 0.5"),
    RuntimeError("cannot draw: no EGL"),
]


def raising(error: BaseException):
    @one_line_errors
    def main() -> float:
        """Doc."""
        raise error

    return main


@pytest.mark.parametrize("error", MISTAKES, ids=lambda error: type(error).__name__)
def test_a_mistake_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        raising(error)()
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"error: {' '.join(str(error).split())}\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/root/.cache"), ["/root/.cache: Permission denied", "HF_HOME="]),
        (OSError(errno.EROFS, "Read-only file system", "runs/x"), ["runs/x: Read-only", "hydra.run.dir="]),
        (OSError(errno.ENAMETOOLONG, "File name too long", "runs/xxx"), ["runs/xxx: File name too long", "shorter name"]),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), ["/x/y: No space left", "free some space"]),
        (socket.gaierror(-2, "Name or service not known"), ["no network", "HF_HUB_OFFLINE=1", "data=folder"]),
        (OSError(errno.EIO, "runs/x cannot be written: choose another"), ["error: runs/x cannot be written: choose another\n"]),
        (OSError(errno.EIO, "Input/output error", "/x"), ["error: /x: Input/output error\n"]),
    ],
)
def test_what_the_system_says_comes_with_what_helps(error: OSError, said: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        raising(error)()
    shown = capsys.readouterr().err
    assert all(words in shown for words in said)
    assert "Errno" not in shown


def composed(word: str) -> str:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("tokenizer", overrides=[word]).to


@pytest.mark.parametrize("name", ["caf\u00e9", "a=1", "left,right", "pick (2)", "it's", "[1]"])
def test_odd_characters_are_told_how_to_be_quoted(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        one_line_errors(composed)(f"to=/data/{name}")
    (line,) = capsys.readouterr().err.splitlines()
    assert "quote the value" in line
    if "twice" in line:  # else Hydra said it well itself
        (word,) = shlex.split(line.rpartition("shell: ")[2])
        assert composed(word) == f"/data/{name}"


def test_what_lies_in_a_list_is_not_removed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        one_line_errors(composed)("~data.embodiment.state.0.gripper")
    assert "set it to null, or write the whole list" in capsys.readouterr().err


def job_with(*words: str, config: str = "doctor", monkeypatch: pytest.MonkeyPatch) -> list[DictConfig]:
    """The words that a script's own function is started with, as Hydra starts it."""
    monkeypatch.setattr(sys, "argv", ["scripts/doctor.py", *words])
    reached: list[DictConfig] = []

    @one_line_errors
    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)
    @one_line_errors
    def main(cfg: DictConfig) -> None:
        reached.append(cfg)

    main()
    return reached


def test_a_new_word_that_nobody_reads_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        job_with("+nonsense=1", monkeypatch=monkeypatch)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: +nonsense: nobody reads a key of that name")
    for words in (["++nonsense=1"], ["+rest=openvla"], []):
        assert job_with(*words, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("config", "word"),
    [("train", "+evaluation.nonsense"), ("train", "+env.maker.id"), ("merge", "+model.base"), ("control", "+robot.x")],
)
def test_a_new_word_below_another_is_refused_too(config: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        job_with(f"{word}=1", config=config, monkeypatch=monkeypatch)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {word}: nobody reads a key of that name")


@pytest.mark.parametrize(("config", "word"), [("train", "+optimizer.betas=[0.9,0.95]"), ("control", "+robot.state_of.wrist=wrist")])
def test_what_an_object_takes_may_be_new(config: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert job_with(word, config=config, monkeypatch=monkeypatch)


def test_what_an_error_brings_along_is_on_the_line(capsys: pytest.CaptureFixture[str]):
    error = ValueError("no such task")
    error.add_note("(The training is done.)")
    with pytest.raises(SystemExit):
        raising(error)()
    assert capsys.readouterr().err == "error: no such task (The training is done.)\n"


def test_a_word_that_is_no_override_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        one_line_errors(composed)("caf\u00e9")
    assert "is no override: write key=value" in capsys.readouterr().err


def test_a_constructors_mistake_is_told_without_hydras_wrapping(capsys: pytest.CaptureFixture[str]):
    wrapped = {"_target_": "vla_tune.data.chunks.ChunksByTimestamp", "horizon": 0}

    @one_line_errors
    def main() -> None:
        build(OmegaConf.create({"data": wrapped}))

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: horizon=0: a chunk has at least 1 action.\n"


def test_a_missing_value_is_one_line(capsys: pytest.CaptureFixture[str]):
    @one_line_errors
    def main() -> str:
        return OmegaConf.create({"run": "???"}).run

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "run" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(("override", "named"), [("adapter.rnak=8", "adapter.rnak"), ("adapter=qlorra", "lora_r16 ")])
def test_hydras_own_errors_are_one_line_with_a_way_out(override: str, named: str, capsys: pytest.CaptureFixture[str]):
    @one_line_errors
    def main() -> None:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            compose("train", overrides=[override])

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert "--cfg job" in line


def test_an_option_that_moved_is_told_where(capsys: pytest.CaptureFixture[str]):
    @one_line_errors
    def main() -> None:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            compose("train", overrides=["experiment=rank_tradeoff"])

    with pytest.raises(SystemExit):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: experiment=rank_tradeoff compares runs")
    assert line.endswith("Say sweep=rank_tradeoff.")


def test_an_interruption_has_the_shells_exit_code(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        raising(TrainingInterrupted("stopped after step 3"))()
    assert caught.value.code == 130
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("CUDA died"), AssertionError("ours")])
def test_a_fault_of_ours_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error)) as caught:
        raising(error)()
    assert caught.value is error


def test_without_an_error_nothing_is_changed():
    @one_line_errors
    def main(value: int, *, more: int) -> int:
        """Add."""
        return value + more

    assert main(1, more=2) == 3
    assert (main.__name__, main.__doc__) == ("main", "Add.")


def test_a_module_of_the_users_may_be_called_as_a_script_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "record.py").write_text("OWN = True")
    monkeypatch.setattr(sys, "path", [str(CONF.parent / "scripts"), str(tmp_path), *sys.path])
    assert find_spec("record").origin == str(CONF.parent / "scripts" / "record.py")

    @one_line_errors
    def main() -> str:
        """Doc."""
        return find_spec("record").origin

    assert main() == str(tmp_path / "record.py")


@pytest.mark.parametrize("name", ["no_such_module:Own-v0", "envs:vla_tune/Tabletop-v7", "Unheard-v0"])
def test_an_environment_that_is_not_found_is_one_line(name: str, capsys: pytest.CaptureFixture[str]):
    @one_line_errors
    def main() -> None:
        """Doc."""
        gymnasium.make(name)

    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "PYTHONPATH" in said


def test_a_group_is_not_left_out_by_null(capsys: pytest.CaptureFixture[str]):
    def compose_it() -> None:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            compose("train", overrides=["env=null"])

    with pytest.raises(SystemExit):
        one_line_errors(compose_it)()
    assert "~env leaves env out" in capsys.readouterr().err
