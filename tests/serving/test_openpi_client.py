"""The public openpi-client 0.1.2, in an environment of its own, against our server."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vla_tune.serving.security import Tls

pytestmark = [pytest.mark.network]
PACKAGES = ["openpi-client==0.1.2", "typing_extensions", "websockets<18"]
type Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Runs `asks_with_openpi.py` there."""
    folder = tmp_path_factory.mktemp("openpi")
    subprocess.run(["uv", "venv", "-q", "--python", "3.12", str(folder / "env")], timeout=600, check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), *PACKAGES], timeout=600, check=True)

    def run(port: int, case: str, *, host: str = "localhost", key: str = "", certificate: Path | None = None) -> dict[str, Any]:
        trusted = {"SSL_CERT_FILE": str(certificate)} if certificate else {}
        command = [str(python), "-W", "ignore", str(Path(__file__).with_name("asks_with_openpi.py")), host, str(port), key, case]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | trusted)
        assert done.returncode == 0, done.stderr[-1000:]
        return json.loads(done.stdout)

    return run


def test_it_infers_and_resets(ask: Ask, served, echo) -> None:
    with served(echo) as address:
        said = ask(address.port, "infer")
        assert said["actions"] == [[0.5, -0.25, 0.125, 1.0]] * 4
        assert said["numpy"].startswith("1.")
        assert "infer_ms" in said["timing"]
        assert ask(address.port, "reset")["status"] == "reset successful"


def test_a_wrong_observation_is_told(ask: Ask, served, echo) -> None:
    with served(echo) as address:
        said = ask(address.port, "wrong")
    assert said["error"] == "RuntimeError"
    assert "prompt" in said["message"]


def test_a_failing_policy_gives_no_traceback(ask: Ask, served) -> None:
    def broken(observations, names):
        raise RuntimeError("secret of the server")

    with served(broken) as address:
        said = ask(address.port, "infer")
    assert said["error"] == "RuntimeError"
    assert "the server's log says why" in said["message"]
    assert "secret" not in said["message"]


def test_an_oversized_message_ends_the_connection(ask: Ask, served, echo) -> None:
    with served(echo) as address:
        assert "1009" in ask(address.port, "large")["message"]
        assert "actions" in ask(address.port, "infer")


def test_keys_over_tls(ask: Ask, served, echo, tls: Tls) -> None:
    key = Path(tls.api_key_file).read_text()
    with served(echo, security=tls) as address:
        right: dict[str, Any] = {"host": "wss://localhost", "certificate": Path(tls.certificate)}
        assert "actions" in ask(address.port, "infer", key=key, **right)
        assert "401" in ask(address.port, "infer", key="wrong", **right)["message"]
        assert "CERTIFICATE_VERIFY_FAILED" in ask(address.port, "infer", key=key, host="wss://localhost")["message"]
