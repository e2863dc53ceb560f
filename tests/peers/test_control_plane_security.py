"""Beyond loopback: TLS, and a token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.control_plane import RunningPlane
from tests.unit.engine.connector_service.certificates import Authority

pytestmark = pytest.mark.peer


def test_the_sdk_runs_tasks_over_tls_with_a_token_and_without_it_gets_nothing(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.pair("localhost").write(tmp_path, "server")
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(authority.certificate)
    token = tmp_path / "token"
    token.write_text("open-sesame\n", encoding="utf-8")
    wrong = tmp_path / "wrong"
    wrong.write_text("open-barley\n", encoding="utf-8")
    plane = RunningPlane(tmp_path)
    plane.start("--token-file", str(token), "--tls-cert", certificate, "--tls-key", key)
    try:
        plane.url = plane.url.replace("127.0.0.1", "localhost")
        good = plane.begin_program("secured", str(trusted), str(token), SSL_CERT_FILE=str(trusted))
        said, _ = good.communicate(timeout=240)
        assert json.loads(said.decode().splitlines()[-1]) == 22, said.decode()
        refused = plane.begin_program("secured", str(trusted), str(wrong), SSL_CERT_FILE=str(trusted))
        said, _ = refused.communicate(timeout=240)
        assert refused.returncode != 0
        assert "a bearer token is needed" in said.decode()
    finally:
        plane.stop()


def test_nobody_listens_beyond_loopback_without_a_token(tmp_path: Path) -> None:
    propfan = Path(sys.executable).parent / "propfan"
    done = subprocess.run(
        [str(propfan), "up", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "--token-file" in done.stderr) == (2, True)
