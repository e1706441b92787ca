"""Whatever asks the program to end stops the robot first."""

import signal

import pytest

from vla_tune.control.emergency import AnyOf, StopFile, StopSignal


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_noted_and_ends_nothing(name: str):
    number, stop = getattr(signal, name), StopSignal()
    before = signal.getsignal(number)
    with stop.listening():
        assert stop.pressed() is None
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert stop.pressed() == f"{name} was received"
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("name", "noted"), [("SIGHUP", False), ("SIGINT", True)])
def test_a_hangup_that_is_ignored_stays_ignored_but_ctrl_c_never_is(name: str, noted: bool):
    """As nohup starts a program, and as a shell starts one in the background."""
    number, stop = getattr(signal, name), StopSignal()
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop.listening():
            signal.raise_signal(number)
            assert (stop.pressed() is not None) == noted
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_the_first_of_several_stops_says_why(tmp_path):
    stop = AnyOf([StopFile(str(tmp_path / "STOP")), StopFile(str(tmp_path))])
    assert stop.pressed() == f"the file {tmp_path} exists"
