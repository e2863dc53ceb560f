"""How login nodes are reached, and by what they are recognised."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncssh
import pytest

from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.connector import JobContext
from propfan.pluginmachinery.errors import PermanentError, TransientError
from propfan.plugins.connectors.slurm import connections
from propfan.plugins.connectors.slurm.config import SlurmConfig
from propfan.plugins.connectors.slurm.connections import Address, Connections
from propfan.plugins.connectors.slurm.connector import SlurmConnector
from tests.unit.plugins.connectors.slurm.cluster import DROP, KEY, LOCKED_KEY, SECRET, WRONG_KEY, Cluster, script_task

pytestmark = pytest.mark.anyio

CLUSTER = Address("cluster")
JOB = JobContext()


@asynccontextmanager
async def opened(cluster: Cluster, **slurm: Any) -> AsyncIterator[Connections]:
    made = Connections(decode_config(SlurmConfig, cluster.section(**slurm), ""))
    try:
        yield made
    finally:
        await made.close()


async def say(made: Connections, words: str = "hi", address: Address = CLUSTER, key: str = KEY) -> str:
    async with made.login(address, key, None) as login:
        return (await login.run("echo", words)).output.strip()


async def test_one_connection_serves_many_calls(cluster: Cluster) -> None:
    async with opened(cluster) as made, anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(say, made, str(number))
    assert cluster.connections == 1


def test_the_library_is_not_read_on_the_event_loop() -> None:
    """It takes a third of a second."""
    program = """
import sys, threading
import anyio
from propfan.pluginmachinery.errors import TaskError
from propfan.plugins.connectors.slurm.config import SlurmConfig
from propfan.plugins.connectors.slurm.connections import Address, Connections

class Watch:
    def find_spec(self, name, *_):
        if name == "asyncssh":
            print(threading.current_thread() is threading.main_thread())

async def main():
    try:
        async with Connections(SlurmConfig()).login(Address("127.0.0.1", 1), "", None):
            pass
    except TaskError:
        pass

sys.meta_path.insert(0, Watch())
anyio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


async def test_users_and_keys_have_their_own(cluster: Cluster) -> None:
    async with opened(cluster) as made:
        await say(made)
        await say(made, address=Address("cluster", username="ann"))
        with pytest.raises(PermanentError):
            await say(made, key=WRONG_KEY)
        assert made.open_count == 2
    assert cluster.connections == 3


async def test_connection_that_was_lost_is_replaced(cluster: Cluster) -> None:
    async with opened(cluster) as made:
        await say(made)
        async with made.login(CLUSTER, KEY, None) as login:
            cluster.drop_connections()
            await login._connection.wait_closed()
        assert await say(made, "again") == "again"
    assert cluster.connections == 2


async def test_loss_in_the_middle_of_a_command_is_worth_another_call(cluster: Cluster) -> None:
    async with opened(cluster) as made:
        async with made.login(CLUSTER, KEY, None) as login:
            with pytest.raises(TransientError, match="cluster"):
                await login.run(DROP)
        assert await say(made, "again") == "again"


async def test_connection_that_does_not_answer_after_a_rest_is_replaced(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_PROBE_AFTER_S", -1.0)
    async with opened(cluster) as made:
        await say(made)
        assert await say(made, "well") == "well"
        assert cluster.connections == 1
        monkeypatch.setattr(connections, "_PROBE_LIMIT_S", -1.0)
        assert await say(made, "again") == "again"
    assert cluster.connections == 2


async def test_server_that_is_down_is_asked_again(cluster: Cluster) -> None:
    cluster.stop()
    async with opened(cluster) as made:
        with pytest.raises(TransientError, match="cluster"):
            await say(made)
        cluster.start()
        assert await say(made, "up") == "up"


async def test_command_that_takes_too_long_is_worth_another_call(cluster: Cluster) -> None:
    async with opened(cluster, command_timeout_s=0.2) as made, made.login(CLUSTER, KEY, None) as login:
        with pytest.raises(TransientError, match="in time"):
            await login.run("sleep", "5")


async def test_unused_connections_make_room(cluster: Cluster) -> None:
    async with opened(cluster, max_connections=1) as made:
        await say(made)
        await say(made, address=Address("cluster", username="ann"))
        assert made.open_count == 1


async def test_old_connections_are_closed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(cluster, idle_s=0.000001) as made:
        await say(made)
        await say(made, address=Address("cluster", username="ann"))
        assert made.open_count == 1


async def test_more_than_allowed_are_refused_for_now(cluster: Cluster) -> None:
    async with opened(cluster, max_connections=1) as made, made.login(CLUSTER, KEY, None):
        with pytest.raises(TransientError, match="max-connections"):
            await say(made, address=Address("cluster", username="ann"))


async def test_closing_ends_all(cluster: Cluster) -> None:
    async with opened(cluster) as made:
        await say(made)
        await made.close()
        assert made.open_count == 0


async def test_unknown_host_key_is_refused(cluster: Cluster) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    for content in ("", f"[127.0.0.1]:{cluster.port} {other}"):
        (cluster.folder / "known_hosts").write_text(content)
        async with opened(cluster) as made:
            with pytest.raises(PermanentError, match=r"connectors\.slurm\.known-hosts") as refused:
                await say(made)
        assert refused.value.code == "HostKeyNotTrusted"


async def test_task_can_not_switch_host_keys_off(cluster: Cluster, connector: SlurmConnector) -> None:
    (cluster.folder / "known_hosts").write_text("")
    with pytest.raises(PermanentError, match="known-hosts"):
        await connector.create(script_task("echo", ssh_config={"host": "cluster", "known_hosts": None}))


async def test_any_host_key_is_taken_where_the_operator_says_so(cluster: Cluster) -> None:
    (cluster.folder / "known_hosts").write_text("")
    async with opened(cluster, insecure_skip_host_keys=True) as made:
        assert await say(made, "trusting") == "trusting"


async def test_wrong_key_is_told_with_a_way_out(cluster: Cluster) -> None:
    connector = SlurmConnector(cluster.setup(WRONG_KEY))
    try:
        with pytest.raises(PermanentError, match=rf"none of the keys.*{SECRET}.*client_keys") as refused:
            await connector.create(script_task("echo"))
    finally:
        await connector.close()
    assert refused.value.code == "ServiceNotAllowed"


@pytest.mark.parametrize(("key", "told"), [("nonsense", "no private key"), (LOCKED_KEY, "passphrase|no private key")])
async def test_key_that_can_not_be_used_is_named_but_not_shown(cluster: Cluster, key: str, told: str) -> None:
    async with opened(cluster) as made:
        with pytest.raises(PermanentError, match=rf"{SECRET}.*({told})") as refused:
            await say(made, key=key)
    assert key[30:60] not in str(refused.value) or key == "nonsense"


async def test_key_files_of_the_task_and_of_the_service_serve_as_well(cluster: Cluster) -> None:
    (cluster.folder / "key").write_text(KEY)
    path = str(cluster.folder / "key")
    async with opened(cluster) as made:
        assert await say(made, "task's", Address("cluster", client_keys=(path,)), "") == "task's"
    async with opened(cluster, client_keys=[path]) as made:
        assert await say(made, "service's", key="") == "service's"


async def test_key_file_that_is_not_there_is_named(cluster: Cluster) -> None:
    async with opened(cluster) as made:
        with pytest.raises(PermanentError, match="/none/key"):
            await say(made, address=Address("cluster", client_keys=("/none/key",)), key="")


async def test_key_file_of_another_machine_matters_not_where_there_is_a_secret(cluster: Cluster) -> None:
    async with opened(cluster) as made:
        assert await say(made, "secret's", Address("cluster", client_keys=("~/.ssh/none-here",))) == "secret's"
