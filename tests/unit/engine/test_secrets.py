"""Where secrets are found, and that nothing else is."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from propfan.engine.secrets import SECRET_NOT_FOUND, FileEnvSecrets
from propfan.pluginmachinery.errors import PermanentError

VALUE = "s3cr3t-value"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    secrets = tmp_path / "secrets"
    (secrets / "db").mkdir(parents=True)
    (tmp_path / "outside").write_text(VALUE)
    (tmp_path / "secrets-of-others").mkdir()
    (tmp_path / "secrets-of-others" / "key").write_text(VALUE)
    return secrets


async def refusal(secrets: FileEnvSecrets, key: str, group: str = "") -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        await secrets.get(key, group)
    assert caught.value.code == SECRET_NOT_FOUND
    assert VALUE not in "".join(traceback.format_exception(caught.value))
    return caught.value


@pytest.mark.anyio
async def test_environment_comes_before_files(folder: Path) -> None:
    (folder / "token").write_text("of the file")
    (folder / "db" / "password").write_text("of the file")
    environ = {"FLYTE_SECRET_token": "of env", "FLYTE_SECRET_DB_PASSWORD": "of the group's env"}
    secrets = FileEnvSecrets(environ, folder)
    assert await secrets.get("token") == "of env"
    assert await secrets.get("password", "db", "v1") == "of the group's env"
    assert await FileEnvSecrets({}, folder).get("token") == "of the file"
    assert await FileEnvSecrets({}, folder).get("password", "db") == "of the file"


@pytest.mark.anyio
async def test_key_without_group_keeps_its_case(folder: Path) -> None:
    await refusal(FileEnvSecrets({"FLYTE_SECRET_TOKEN": VALUE}, folder), "token")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("content", "value"),
    [(b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a"), (b"a\nb\n", "a\nb"), (b"a\r\nb", "a\r\nb"), (b" a ", " a "),
     ("é".encode(), "é"), (b"", "")],
)  # fmt: skip
async def test_file_is_the_value_but_for_its_line_end(folder: Path, content: bytes, value: str) -> None:
    (folder / "token").write_bytes(content)
    assert await FileEnvSecrets({}, folder).get("token") == value


@pytest.mark.anyio
async def test_missing_secret_says_where_it_was_looked_for(folder: Path) -> None:
    secrets = FileEnvSecrets({}, folder, "PREFIX_")
    assert (await refusal(secrets, "token")).message == f"secrets not found - file [{folder}/token], Env [PREFIX_token]"
    grouped = await refusal(secrets, "password", "db")
    assert grouped.message == f"secrets not found - Env [PREFIX_DB_PASSWORD], file [{folder}/db/password]"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("../outside", ""),
        ("../secrets-of-others/key", ""),
        ("..", ""),
        (".", ""),
        ("", ""),
        ("", "db"),
        ("db", ""),
        ("token/below", ""),
        ("outside", ".."),
        ("key", "../secrets-of-others"),
        ("../../outside", "db"),
        ("a\0b", ""),
        ("k" * 5000, ""),
        ("link", ""),
        ("loop", ""),
    ],
)
async def test_nothing_outside_of_the_folder_is_read(folder: Path, key: str, group: str) -> None:
    (folder / "token").write_text(VALUE)
    (folder / "link").symlink_to(folder.parent / "outside")
    (folder / "loop").symlink_to(folder / "loop")
    await refusal(FileEnvSecrets({}, folder), key, group)


@pytest.mark.anyio
async def test_absolute_names_are_not_read(folder: Path) -> None:
    await refusal(FileEnvSecrets({}, folder), str(folder.parent / "outside"))
    await refusal(FileEnvSecrets({}, folder), "outside", str(folder.parent))


@pytest.mark.anyio
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(key=st.text("./\\\0ab~", max_size=12), group=st.text("./\\\0ab~", max_size=12))
async def test_no_name_finds_what_is_not_there(folder: Path, key: str, group: str) -> None:
    await refusal(FileEnvSecrets({}, folder), key, group)


@pytest.mark.anyio
async def test_mounted_secrets_are_links_within_the_folder(folder: Path) -> None:
    version = folder / "..2026_01_01"
    version.mkdir()
    (version / "token").write_text(VALUE)
    (folder / "..data").symlink_to(version.name)
    (folder / "token").symlink_to("..data/token")
    mount = folder.parent / "mount"
    mount.symlink_to(folder)
    assert await FileEnvSecrets({}, mount).get("token") == VALUE


@pytest.mark.anyio
async def test_binary_secret_is_refused_without_being_shown(folder: Path) -> None:
    (folder / "token").write_bytes(VALUE.encode() + b"\xff")
    refused = await refusal(FileEnvSecrets({}, folder), "token")
    assert "valid UTF-8" in refused.message
    assert refused.__cause__ is None
    assert refused.__context__ is None


@pytest.mark.anyio
async def test_secrets_are_never_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "token").write_text(VALUE)
    with caplog.at_level(0), capture_logs() as logs:
        secrets = FileEnvSecrets({"FLYTE_SECRET_other": VALUE}, folder)
        assert await secrets.get("token") == await secrets.get("other") == VALUE
        await refusal(secrets, "none")
    assert VALUE not in caplog.text
    assert not logs
    assert VALUE not in repr(secrets)
