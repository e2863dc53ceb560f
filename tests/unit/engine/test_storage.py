from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine import storage
from propfan.engine.storage import AzureConfig, Location, ObjectStore, S3Config, StorageConfig
from propfan.pluginmachinery.contexts import FileTransferStore
from propfan.pluginmachinery.errors import ConfigError, ObjectNotFoundError, ObjectTooLargeError, StorageError
from tests.unit.engine.s3_server import create_bucket, s3_server

KEY = S3Config(access_key_id="id", secret_access_key="secret", region="us-east-1")
QUICK = StorageConfig(timeout_s=2.0, connect_timeout_s=1.0, max_retries=1)


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        create_bucket(endpoint, "tasks")
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str) -> ObjectStore:
    section = msgspec.structs.replace(KEY, endpoint=s3_endpoint)
    return ObjectStore(msgspec.structs.replace(QUICK, timeout_s=30.0, s3=section))


@pytest.fixture(params=["file", "plain path", "memory", "s3"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "file": f"file://{tmp_path}",
        "plain path": str(tmp_path),
        "memory": "memory://box",
        "s3": "s3://tasks",
    }[request.param]


@pytest.fixture
def store(request: pytest.FixtureRequest, prefix: str) -> ObjectStore:
    return request.getfixturevalue("s3") if prefix.startswith("s3") else ObjectStore()


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["outputs.pb", "a/b/c/outputs.pb", "run 1/ü%20#?&+=.pb"])
async def test_what_is_put_is_what_is_read(store: ObjectStore, prefix: str, key: str) -> None:
    path = f"{prefix}/{key}"
    for content in (b"first", b"", bytes(range(256)) * 100):
        await store.put(path, content)
        assert await store.get(path) == content
        assert await store.size(path) == len(content)


@pytest.mark.anyio
async def test_a_missing_object_has_no_size_and_can_not_be_read(store: ObjectStore, prefix: str) -> None:
    path = f"{prefix}/none/error.pb"
    assert await store.size(path) is None
    assert await store.size(path) is None
    with pytest.raises(ObjectNotFoundError) as caught:
        await store.get(path)
    assert caught.value.path == path


@pytest.mark.anyio
async def test_what_is_below_a_folder_is_listed(store: ObjectStore, prefix: str) -> None:
    for name in ("a b", "c/d", "c/e"):
        await store.put(f"{prefix}/folder/{name}", b"x")
    await store.put(f"{prefix}/folder-2/f", b"x")
    assert await store.names_below(f"{prefix}/folder/") == ["a b", "c/d", "c/e"]
    assert await store.names_below(f"{prefix}/folder/c") == ["d", "e"]
    assert await store.names_below(f"{prefix}/none") == []


@pytest.mark.anyio
async def test_an_object_over_the_limit_is_not_read(store: ObjectStore, prefix: str) -> None:
    path = f"{prefix}/outputs.pb"
    await store.put(path, b"x" * 100)
    assert len(await store.get(path, limit_bytes=100)) == 100
    with pytest.raises(ObjectTooLargeError) as caught:
        await store.get(path, limit_bytes=99)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (100, 99)


@pytest.mark.anyio
@pytest.mark.parametrize("size_bytes", [0, 1, 2000, 20_000])
async def test_files_are_moved_to_the_store_and_back_in_parts(
    store: ObjectStore, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    monkeypatch.setattr(storage, "_PART_BYTES", 1000 if not prefix.startswith("s3") else 5 * 1024 * 1024)
    path, source, copy = f"{prefix}/moved/file", anyio.Path(tmp_path / "source"), anyio.Path(tmp_path / "copy")
    content = bytes(index % 251 for index in range(size_bytes))
    await source.write_bytes(content)
    assert isinstance(store, FileTransferStore)
    await store.put_file(path, Path(source))
    assert await store.get(path) == content
    assert await store.get_file(path, Path(copy)) == size_bytes
    assert await copy.read_bytes() == content
    if size_bytes:
        with pytest.raises(ObjectTooLargeError):
            await store.get_file(path, Path(copy), limit_bytes=size_bytes - 1)
    with pytest.raises(ObjectNotFoundError):
        await store.get_file(f"{path}-none", Path(copy))


@pytest.mark.anyio
async def test_an_object_of_several_s3_parts_is_moved_whole(s3: ObjectStore, tmp_path: Path) -> None:
    source, copy = anyio.Path(tmp_path / "source"), anyio.Path(tmp_path / "copy")
    content = bytes(range(256)) * 70_000
    await source.write_bytes(content)
    await s3.put_file("s3://tasks/large", Path(source))
    assert await s3.get_file("s3://tasks/large", Path(copy)) == len(content)
    assert await copy.read_bytes() == content


@pytest.mark.anyio
async def test_calls_may_run_at_once(store: ObjectStore, prefix: str) -> None:
    async with anyio.create_task_group() as group:
        for n in range(50):
            group.start_soon(store.put, f"{prefix}/many/{n}", str(n).encode())
    assert [await store.get(f"{prefix}/many/{n}") for n in range(50)] == [str(n).encode() for n in range(50)]


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["get", "put", "size"])
async def test_a_missing_bucket_is_no_missing_object(s3: ObjectStore, call: str) -> None:
    arguments = (b"x",) if call == "put" else ()
    with pytest.raises(StorageError, match="bucket 'nowhere' does not exist: create it") as caught:
        await getattr(s3, call)("s3://nowhere/a/inputs.pb", *arguments)
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert caught.value.path == "s3://nowhere/a/inputs.pb"


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["get", "put", "size"])
async def test_a_refused_connection_names_the_endpoint(call: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        section = msgspec.structs.replace(KEY, endpoint=f"http://{address}")
        store = ObjectStore(msgspec.structs.replace(QUICK, s3=section))
        with pytest.raises(StorageError, match=f"(?s)^s3://tasks/x: .*endpoint {address}, or FLYTE_AWS_ENDPOINT"):
            await getattr(store, call)("s3://tasks/x", *((b"x",) if call == "put" else ()))


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["get", "put", "size"])
async def test_a_store_that_never_answers_fails_in_time(call: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        section = msgspec.structs.replace(KEY, endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = ObjectStore(StorageConfig(timeout_s=0.3, s3=section))
        with anyio.fail_after(10), pytest.raises(StorageError, match=r"no answer within 0\.3 s"):
            await getattr(store, call)("s3://tasks/x", *((b"x",) if call == "put" else ()))


@pytest.mark.anyio
async def test_a_cancelled_call_ends_at_once_and_the_store_stays_usable(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        section = msgspec.structs.replace(KEY, endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = ObjectStore(StorageConfig(timeout_s=60, s3=section))
        with anyio.fail_after(10), anyio.move_on_after(0.05) as scope:
            await store.get("s3://tasks/x")
        assert scope.cancelled_caught
        await store.put(f"{tmp_path}/x", b"y")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("inputs.pb", "not a URI and not an absolute path: use an absolute path, file://"),
        ("", "not a URI and not an absolute path"),
        ("ftp://host/x", "scheme 'ftp' is not known: use"),
        ("file://host/x", "three slashes"),
        ("file:///", "names a directory"),
        ("/tmp/", "names a directory"),
        ("file:///tmp/../etc/passwd", "'..' is refused"),
        ("/tmp/a/../../etc/passwd", "'..' is refused"),
        ("/proc/sys/x", "file system of the kernel"),
        ("/tmp/a\0b", "NUL"),
        ("s3://", "no bucket"),
        ("s3:///key", "no bucket"),
        ("s3://tasks", "names no object"),
        ("s3://tasks/dir/", "names no object"),
        ("s3://tasks/a//b", "segment ''"),
        ("s3://tasks/../other/b", r"segment '\.\.'"),
        ("memory://", "names no object"),
        ("az://container/x", r"storage\.azure\.account-name"),
    ],
)
async def test_a_path_where_nothing_can_be_is_refused_with_what_would_be_right(path: str, problem: str) -> None:
    store = ObjectStore()
    for call in (store.get(path), store.put(path, b""), store.size(path)):
        with pytest.raises(StorageError, match=problem) as caught:
            await call
        assert not isinstance(caught.value, ObjectNotFoundError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@given(
    st.text(max_size=60), st.sampled_from(["", "/", "file://", "file:///", "s3://", "memory://", "az://", "gs://b/"])
)
def test_any_text_is_a_location_or_a_storage_error(text: str, prefix: str) -> None:
    try:
        location = Location.parse(prefix + text)
    except StorageError:
        return
    assert location.key
    assert not {"", ".", ".."} & set(location.key.split("/"))


def test_a_file_store_keeps_to_its_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-2"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("x")
    (root / "link").symlink_to(outside)
    store = ObjectStore(StorageConfig(file_root=str(root)))

    async def check() -> None:
        await store.put(f"file://{root}/a/b", b"inside")
        assert (root / "a" / "b").read_bytes() == b"inside"
        for path in (f"{outside}/secret", f"{root}/link/secret", f"{root}/../root-2/secret", "/etc/passwd"):
            with pytest.raises(StorageError, match=r"outside of the file store's root|'\.\.' is refused"):
                await store.get(path)
            with pytest.raises(StorageError, match=r"outside of the file store's root|'\.\.' is refused"):
                await store.put(path, b"")
        assert (outside / "secret").read_text() == "x"

    anyio.run(check)


@pytest.mark.anyio
async def test_a_file_root_that_does_not_exist_is_named_until_it_does(tmp_path: Path) -> None:
    root = tmp_path / "later"
    store = ObjectStore(StorageConfig(file_root=str(root)))
    with pytest.raises(
        StorageError, match=r"storage\.file-root: the file store's root .*/later is no folder: create it"
    ):
        await store.put(f"{root}/x", b"x")
    root.mkdir()
    await store.put(f"{root}/x", b"x")
    assert [file.name for file in root.iterdir()] == ["x"]


@pytest.mark.anyio
async def test_a_file_in_the_way_of_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="folder's owner, mode and free space"):
        await ObjectStore().put(f"{tmp_path}/file/outputs.pb", b"x")


@pytest.mark.anyio
async def test_what_is_no_file_is_no_object_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    store = ObjectStore()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with anyio.fail_after(5):
        assert await store.get(f"{tmp_path}/pipe") == b""
        assert await store.size(f"{tmp_path}/folder") is None
        with pytest.raises(ObjectNotFoundError, match="folder"):
            await store.get(f"file://{tmp_path}/folder")


def test_contradicting_settings_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"storage\.s3\.allow-http"):
        ObjectStore(StorageConfig(s3=S3Config(endpoint="http://127.0.0.1:9000", allow_http=False)))
    with pytest.raises(ConfigError, match=r"storage\.file-root"):
        ObjectStore(StorageConfig(file_root="relative"))


def test_flytes_variables_come_before_amazons_and_settings_before_both() -> None:
    environ = {
        "FLYTE_AWS_ENDPOINT": "http://flyte",
        "AWS_ENDPOINT_URL": "http://amazon",
        "AWS_ACCESS_KEY_ID": "amazon",
        "AWS_REGION": "eu-west-1",
    }
    found = StorageConfig(s3=S3Config(region="us-west-2")).with_environment(environ).s3
    assert (found.endpoint, found.access_key_id, found.region) == ("http://flyte", "amazon", "us-west-2")


def test_secrets_do_not_show() -> None:
    config = StorageConfig(
        s3=S3Config(secret_access_key="hunter2", session_token="hunter2"), azure=AzureConfig(account_key="hunter2")
    )
    assert "hunter2" not in repr(config)
