"""What users get wrong: refused with the object, the field and the way out, and nothing is left behind."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner
from flyteidl2.core import tasks_pb2

from propfan.engine.api import DATABASE_FILE
from propfan.engine.cli.app import cli
from propfan.engine.embedded.store import APPLICATION_ID, SCHEMA_VERSION
from tests.unit.engine.cli.command import lines_of, propfan, running, task_file, until_file, until_files

GOOD = """
id: {name: good}
type: raw-container
container: {image: busybox, command: [/bin/sh, -c, 'true']}
"""
WITH_INPUT = GOOD + "interface: {inputs: {variables: [{key: n, value: {type: {simple: INTEGER}}}]}}\n"


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def refused(folder: Path, *arguments: object) -> str:
    """The one line of an error; no data directory has come to be."""
    data_dir = folder / "data"
    result = CliRunner().invoke(cli, ["run", *map(str, arguments), "--data-dir", str(data_dir)], env={"COLUMNS": "300"})
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert not data_dir.exists()
    return result.stderr


def file_of(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def serialised(image: str = "busybox") -> bytes:
    template = tasks_pb2.TaskTemplate(type="raw-container")
    template.id.name = "x"
    template.container.image = image
    return template.SerializeToString()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.pb", b"\xff\xff\xff", "not a serialised flyteidl2.core.TaskTemplate"),
        ("a.pb", serialised()[:-3], "not a serialised flyteidl2.core.TaskTemplate"),
        ("a.pb", b"", "empty"),
        ("a.pb", serialised("i" * 1024 * 1024), "the limit is 1048576: move data to inputs"),
        ("a.yaml", "#" * (4 * 1024 * 1024 + 1), "the limit is 4194304"),
        ("a.yaml", "id: {name: x\ntype: y", "line 2, column 5: not YAML"),
        ("a.yaml", "- 1", "line 1: document: must be an object, is a list"),
        ("a.yaml", "&a [*a]", "levels"),
        ("a.yaml", b"\xff\xfe", "not UTF-8 text: byte 0 is 0xff"),
        ("a.json", '{"id": ', "line 1, column 8: not JSON"),
        ("a.json", "[" * 5000, "nested more than 100 levels"),
        ("a.yaml", "metadata: {retries: {retries: 1}}", "missing: id.name, type"),
        ("a.yaml", "id: {name: x}\ntype: raw-container\ncontainer: {args: [a]}", "missing: container.image"),
        ("a.yaml", "id: {name: x}\ntype: python", "missing: container or k8s_pod"),
        ("a.yaml", GOOD + "retries: 3", "line 5: retries: no such field"),
        ("a.yaml", GOOD + "metadata: {retries: 3}", "line 5: metadata.retries: must be an object, is 3"),
        (
            "a.yaml",
            GOOD + "metadata: {timeout: 30}",
            "line 5: metadata.timeout: must be a duration such as '90s', is 30",
        ),
        ("a.yaml", GOOD + "type: container", "type: the key occurs twice"),
        ("a.txt", GOOD, "must end with one of .pb, .json, .yaml, .yml"),
    ],
)
def test_a_task_file_that_is_none(tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
    path = file_of(tmp_path, name, content)
    told = refused(tmp_path, path)
    assert told.startswith(f"Error: {path}")
    assert problem in told
    assert told.count("\n") == 1


def test_a_task_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    assert (
        refused(tmp_path, tmp_path / "no.yaml")
        == f"Error: {tmp_path}/no.yaml: can not be read: No such file or directory\n"
    )
    (tmp_path / "folder.yaml").mkdir()
    assert "is a directory" in refused(tmp_path, tmp_path / "folder.yaml")


def test_one_bad_file_keeps_all_from_running(tmp_path: Path) -> None:
    good, bad = file_of(tmp_path, "good.yaml", GOOD), file_of(tmp_path, "bad.yaml", "id: {}")
    assert refused(tmp_path, good, bad) == f"Error: {bad}: missing: id.name, type, container.image\n".replace(
        ", container.image", ""
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "inputs without a value: n"),
        ("n: text", "n: must be"),
        ("n: 1\nm: 2", "m: "),
        ("[1]", "must be"),
        ("n: {", "not YAML"),
        ("n: 99999999999999999999", "n: "),
    ],
)
def test_inputs_that_do_not_fit_the_interface(tmp_path: Path, content: str, problem: str) -> None:
    task = file_of(tmp_path, "task.yaml", WITH_INPUT)
    inputs = file_of(tmp_path, "inputs.yaml", content)
    told = refused(tmp_path, task, "--inputs", inputs)
    assert told.startswith(f"Error: {inputs}")
    assert problem in told


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    task = file_of(tmp_path, "task.yaml", WITH_INPUT)
    assert "n" in refused(tmp_path, task)
    absent = refused(tmp_path, task, "--inputs", tmp_path / "no.json")
    assert absent == f"Error: {tmp_path}/no.json: can not be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["--run-name", "A_b"],
            "run_name: 'A_b-a0' (<run>-<action>) is no object name: lower-case letters, digits and '-' only",
        ),
        (["--run-name", "../up"], "run_name: '../up-a0' (<run>-<action>) is no object name"),
        (["--run-name", "r" * 31], "spec.runName: 31 characters, at most 30"),
        (["--capacity", "4"], "--capacity: '4' is not NAME=AMOUNT, e.g. cpu=4,memory=8Gi"),
        (["--capacity", "cpu=many"], "capacity.cpu: 'many': "),
        (["--capacity", "memory=-1Gi"], "capacity.memory: '-1Gi' is negative"),
        (["--capacity", "pods=²"], "--capacity: pods must be a whole number, is '²'"),
        (["--capacity", "cpu=1,cpu=2"], "--capacity: 'cpu' is given twice"),
        (["--env", "NAME"], "--env: 'NAME' is not NAME=VALUE"),
        (["--env", "=3"], "--env: '=3' is not NAME=VALUE"),
        (["--timeout", "nan"], "timeout: must be more than 0 seconds, is nan"),
        (["--timeout", "inf"], "timeout: must be more than 0 seconds, is inf"),
        (["-n", "0"], "Invalid value for '-n'"),
        (["-n", "100001"], "Invalid value for '-n'"),
        (["--retries", "-1"], "Invalid value for '--retries'"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, arguments: list[str], problem: str) -> None:
    assert problem in refused(tmp_path, file_of(tmp_path, "good.yaml", GOOD), *arguments)


def test_options_for_new_tasks_want_a_file(tmp_path: Path) -> None:
    assert refused(tmp_path, "--retries", "1").startswith("Error: FILES: name one: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("workers: '3'\nfoo: 1\ncapacity: {cpuu: 1}", "capacity.cpuu: no such setting, did you mean cpu?"),
        ("workers: '3'\nfoo: 1\ncapacity: {cpuu: 1}", "workers: must be an integer, is '3'; foo: no such setting"),
        ("workers: 0", "workers: "),
        ("gc-ttl-s: .nan", "gc-ttl-s: "),
        ("capacity: 3", "capacity: must be a map, is 3"),
        ("capacity: {cpu: x}", "capacity.cpu: 'x': "),
        ("plugins: {k8s: {default-cpu: '1'}}", "plugins.k8s.default-cpu: no such setting, did you mean default-cpus?"),
        ("[1]", "engine.yaml: must be a mapping of settings, is list"),
        ("store: a\nstore: b", "engine.yaml: line 1: store: the key occurs twice"),
        ("store: [", "engine.yaml: line "),
        ("store: a\n---\nstore: b", "engine.yaml: has 2 documents: settings are a single one"),
        (b"\xff\xfe\x00", "engine.yaml: not UTF-8 text: byte 0 is 0xff"),
    ],
)
def test_a_config_file_with_mistakes(tmp_path: Path, content: str | bytes, problem: str) -> None:
    config = file_of(tmp_path, "engine.yaml", content)
    assert problem in refused(tmp_path, file_of(tmp_path, "good.yaml", GOOD), "-c", config)


@pytest.mark.parametrize("content", ["", "# only a comment\n---\n"])
def test_a_config_file_may_say_nothing(tmp_path: Path, content: str) -> None:
    result = CliRunner().invoke(cli, ["check", "-c", str(file_of(tmp_path, "engine.yaml", content))])
    assert result.exit_code == 0


def test_a_type_that_no_plugin_runs_is_refused_with_those_there_are(tmp_path: Path) -> None:
    odd = file_of(tmp_path, "odd.yaml", "id: {name: x}\ntype: fortran")
    ended = propfan("run", file_of(tmp_path, "good.yaml", GOOD), odd, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    known = r"there are .*\bcontainer, .*\bsidecar\b.*"
    assert re.fullmatch(rf"Error: {odd}: type: no plugin runs 'fortran'; {known}\n", ended.stderr)
    assert propfan("get", cwd=tmp_path).stdout.startswith("no tasks yet")


def test_a_store_that_can_not_be_written_to(tmp_path: Path) -> None:
    good = file_of(tmp_path, "good.yaml", GOOD)
    file_of(tmp_path, "file", "in the way")
    ended = propfan("run", good, "--store", tmp_path / "file" / "store", "-n", 3, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"Error: {tmp_path}/file/store/")
    assert "Not a directory" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    assert propfan("get", cwd=tmp_path).stdout.startswith("no tasks yet")


def test_a_store_of_an_unknown_kind(tmp_path: Path) -> None:
    ended = propfan("run", file_of(tmp_path, "good.yaml", GOOD), "--store", "ftp://host/x", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "ftp" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_data_directory_that_can_not_be_made(tmp_path: Path) -> None:
    file_of(tmp_path, "file", "in the way")
    ended = propfan("run", file_of(tmp_path, "good.yaml", GOOD), "--data-dir", "file/data", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Error: data_dir: ")
    assert "file/data" in ended.stderr
    assert (tmp_path / "file").read_text() == "in the way"


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        database.execute("CREATE TABLE future (id INTEGER)")
        database.commit()


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (id INTEGER)")
        database.commit()


def garbled(path: Path) -> None:
    newer(path)
    content = bytearray(path.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 100), "is damaged"),
        (garbled, "is damaged"),
        (newer, f"was written by a newer propfan (schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION})"),
        (foreign, "is a database of another program: choose another path"),
    ],
    ids=["text", "garbled", "newer", "foreign"],
)
def test_a_database_that_is_not_ours_is_refused_and_stays_as_it_is(tmp_path: Path, make: object, problem: str) -> None:
    assert callable(make)
    database = tmp_path / DATABASE_FILE
    make(database)
    before = database.read_bytes()
    for arguments in (["run", file_of(tmp_path, "good.yaml", GOOD)], ["get"], ["abort", "--all"]):
        result = CliRunner().invoke(cli, [*map(str, arguments), "--data-dir", str(tmp_path)])
        assert (result.exit_code, result.stdout) == (2, "")
        assert problem in result.stderr
        assert str(database) in result.stderr
        assert result.stderr.count("\n") == 1
    assert database.read_bytes() == before


def test_a_second_engine_on_a_data_directory_is_refused_and_the_first_one_undisturbed(tmp_path: Path) -> None:
    waiting = task_file(tmp_path, f"echo begun > {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    with running("run", waiting, "--json", cwd=tmp_path) as first:
        until_file(tmp_path / "begun", first)
        second = propfan("run", waiting, cwd=tmp_path)
        assert (second.returncode, second.stdout) == (2, "")
        assert f"{DATABASE_FILE} is in use by another cluster (process {first.process.pid})" in second.stderr
        (tmp_path / "go").touch()
        assert first.end() == 0
    assert lines_of("\n".join(first.out))[-1]["summary"]["tasks"] == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("needs mount")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run([unmount, "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (64 * 1024, 4096, 1):
            while True:
                try:
                    if not file.write(b"\0" * size):
                        break
                except OSError:
                    break
    return filler


def test_a_full_disk_delays_tasks_which_go_on_when_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    ran = tmp_path / "ran"
    ran.mkdir()
    script = f"echo $FLYTE_ATTEMPT_NUMBER >> {ran}/$ACTION_NAME; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    task = task_file(tmp_path, script)
    data_dir = small_disk / "data"
    few = ("-n", 6, "--capacity", "cpu=20m")
    with running("run", task, *few, "--run-name", "mine", "--json", "--data-dir", data_dir, cwd=tmp_path) as command:
        until_files(ran, 2, command)
        filler = fill(small_disk)
        (tmp_path / "go").touch()
        command.wait_for(lambda _, err: f"the disk is full: {data_dir} needs room" in err)
        filler.unlink()
        assert command.end() == 0
    *tasks, whole = lines_of("\n".join(command.out))
    assert {task["outcome"] for task in tasks} == {"Completed"}
    assert (whole["summary"]["succeeded"], whole["summary"]["attempts"]) == (6, 6)
    assert {file.name: file.read_text() for file in ran.iterdir()} == {f"a{n}": "0\n" for n in range(6)}


def test_an_abort_on_a_full_disk_is_refused_or_repeated_until_it_is_written_down(
    tmp_path: Path, small_disk: Path
) -> None:
    first = task_file(
        tmp_path, f"echo > {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done", name="first"
    )
    data_dir = small_disk / "data"
    with running("run", first, "--run-name", "mine", "--json", "--data-dir", data_dir, cwd=tmp_path) as command:
        until_file(tmp_path / "begun", command)
        filler = fill(small_disk)
        refusal = propfan("abort", "mine-a0", "--data-dir", data_dir, cwd=tmp_path)
        assert (refusal.returncode, refusal.stdout) == (2, "")
        assert "database or disk is full" in refusal.stderr
        command.process.send_signal(signal.SIGINT)
        command.wait_for(lambda _, err: any(line.startswith("waiting: ") and "disk is full" in line for line in err))
        filler.unlink()
        assert command.end() == 130
    task, _ = lines_of("\n".join(command.out))
    assert task["outcome"] == "Aborted"


def test_a_disk_that_is_full_from_the_start_is_an_error(tmp_path: Path, small_disk: Path) -> None:
    fill(small_disk)
    ended = propfan("run", file_of(tmp_path, "good.yaml", GOOD), "--data-dir", small_disk / "data", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    assert "full" in ended.stderr or "No space left on device" in ended.stderr
