"""What is told where the extra is missing; needs none of it."""

import gymnasium
import pytest

from envs.libero import package


def test_a_missing_extra_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"LIBERO is not installed: say uv run --extra libero"):
        gymnasium.make("envs:vla_tune/Libero-v0", suite="libero_of_nobody", task="0")
