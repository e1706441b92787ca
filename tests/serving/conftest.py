"""A server's own certificate, as `openssl` makes it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from vla_tune.serving.security import Tls


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    names = {"certificate": tmp_path / "certificate.pem", "private_key": tmp_path / "private_key.pem"}
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(names["private_key"]), "-out", str(names["certificate"])]
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=300)
    (tmp_path / "key").write_text("0123456789abcdef")
    return Tls(**{name: str(path) for name, path in names.items()}, api_key_file=str(tmp_path / "key"))
