from __future__ import annotations

from pathlib import Path

import pytest

from propfan.engine.connector_service.config import SecretConfig
from propfan.engine.connector_service.secrets import ServiceSecrets
from propfan.pluginmachinery.errors import PermanentError

pytestmark = pytest.mark.anyio


async def test_variables_are_upper_case_and_come_first(tmp_path: Path) -> None:
    (tmp_path / "openai_key").write_text("file")
    secrets = ServiceSecrets(
        SecretConfig(folder=str(tmp_path)), {"_FSEC_OPENAI_KEY": " variable\n", "OPENAI_KEY": "bare"}
    )
    assert await secrets.get("OpenAI_key") == "variable"


async def test_files_are_lower_case_and_stripped(tmp_path: Path) -> None:
    (tmp_path / "cloud" / "v1").mkdir(parents=True)
    (tmp_path / "key").write_text("\nplain \n")
    (tmp_path / "cloud" / "key").write_text("grouped")
    (tmp_path / "cloud" / "v1" / "key").write_text("versioned")
    secrets = ServiceSecrets(SecretConfig(folder=str(tmp_path)), {"_FSEC_A_B_C": "variable"})
    assert await secrets.get("KEY") == "plain"
    assert await secrets.get("Key", "Cloud") == "grouped"
    assert await secrets.get("KEY", "CLOUD", "V1") == "versioned"
    assert await secrets.get("c", "a", "b") == "variable"


async def test_flytes_variables_say_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "secret-key").write_text("file")
    environ = {
        "FLYTE_SECRETS_ENV_PREFIX": "MY_",
        "FLYTE_SECRETS_DEFAULT_DIR": str(tmp_path),
        "FLYTE_SECRETS_FILE_PREFIX": "secret-",
        "MY_OTHER": "variable",
    }
    secrets = ServiceSecrets(SecretConfig(), environ)
    assert await secrets.get("key") == "file"
    assert await secrets.get("other") == "variable"
    with pytest.raises(PermanentError):
        await ServiceSecrets(SecretConfig(env_prefix="THEIRS_", folder="/nowhere"), environ).get("other")


async def test_a_variable_without_the_prefix_is_no_secret(tmp_path: Path) -> None:
    secrets = ServiceSecrets(SecretConfig(folder=str(tmp_path)), {"HOME": "/root"})
    with pytest.raises(PermanentError) as caught:
        await secrets.get("HOME")
    assert caught.value.code == "SecretNotFound"
    assert f"set the variable _FSEC_HOME or the file {tmp_path}/home where the connector service runs" in str(
        caught.value
    )


@pytest.mark.parametrize("key", ["", "../outside", "/etc/passwd", "a\0b", "x" * 5000])
async def test_a_name_that_leads_elsewhere_is_not_found(tmp_path: Path, key: str) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (tmp_path / "outside").write_text("no")
    with pytest.raises(PermanentError, match="is not there"):
        await ServiceSecrets(SecretConfig(folder=str(folder)), {}).get(key)
