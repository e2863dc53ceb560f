from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.processes import logs


def test_the_tail_is_bounded_in_bytes_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {i}\n" for i in range(100)))
    assert logs.tail(path, limit_bytes=1000, limit_lines=2) == "line 98\nline 99\n"
    assert logs.tail(path, limit_bytes=10) == "8\nline 99\n"
    assert logs.tail(path, limit_bytes=10**6).startswith("line 0\n")


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert logs.tail(tmp_path / "none", limit_bytes=10) == ""


@given(data=st.binary(max_size=64), limit=st.integers(1, 64))
def test_any_bytes_can_be_read_back(tmp_path_factory: object, data: bytes, limit: int) -> None:
    path = Path(str(tmp_path_factory.getbasetemp())) / "any.log"  # type: ignore[attr-defined]
    path.write_bytes(data)
    assert logs.tail(path, limit_bytes=limit) == data[-limit:].decode(errors="replace")


def test_the_log_of_an_earlier_pod_of_the_name_is_kept(tmp_path: Path) -> None:
    path = logs.log_path(tmp_path, "ns", "pod", "main", 0)
    logs.prepare(path)
    path.write_text("first")
    logs.prepare(path)
    assert not path.exists()
    assert path.with_name("0.previous.log").read_text() == "first"
