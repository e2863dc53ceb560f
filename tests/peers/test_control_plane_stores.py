"""The control plane on PostgreSQL and on S3, with real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.control_plane import RunningPlane
from tests.peers.postgresql import PostgreSQL, find_programs
from tests.unit.engine.s3_server import create_bucket, s3_server

pytestmark = pytest.mark.peer


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[PostgreSQL]:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed: apt install postgresql")
    with PostgreSQL(programs) as server:
        yield server


def test_runs_are_kept_in_postgresql_over_a_restart(postgresql: PostgreSQL, tmp_path: Path) -> None:
    pytest.importorskip("asyncpg", reason="needs the 'postgresql' extra")
    plane = RunningPlane(tmp_path)
    plane.start("--database", postgresql.url)
    try:
        assert plane.run_program("fan_out") == 30
        plane.kill()
        plane.start("--database", postgresql.url)
        assert plane.run_program("nesting") == ["3", "KeyError", "'negative'"]
    finally:
        plane.stop()
    counted = postgresql.query("SELECT count(*) FROM runs")
    assert counted == "2"
    assert not (tmp_path / "data" / "control-plane.db").exists()


def test_data_goes_to_s3_and_comes_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as endpoint:
        create_bucket(endpoint, "flyte-data")
        for name, value in (("ENDPOINT", endpoint), ("ACCESS_KEY_ID", "me"), ("SECRET_ACCESS_KEY", "hush")):
            monkeypatch.setenv(f"FLYTE_AWS_{name}", value)  # of the control plane, its tasks and its clients
        plane = RunningPlane(tmp_path)
        plane.start("--store", "s3://flyte-data/propfan")
        try:
            assert plane.run_program("nesting") == ["3", "KeyError", "'negative'"]
            assert plane.run_program("files") == ["some text", 2, "some text"]
        finally:
            plane.stop()
    assert not list((tmp_path / "data").glob("store/*"))
