import pytest
from hydra import compose, initialize
from omegaconf import OmegaConf

from vla_tune.export import ParityError
from vla_tune.run.errors import one_line_errors
from vla_tune.run.objects import build
from vla_tune.training.interruption import TrainingInterrupted
from vla_tune.training.non_finite import NonFiniteLossError

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
        with initialize(version_base="1.3", config_path="../../conf"):
            compose("train", overrides=[override])

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert "--cfg job" in line


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
