"""The Slurm connector on a cluster of Slurm's own daemons, through OpenSSH's own server."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import asyncssh
import msgspec
import pytest
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2, literals_pb2, tasks_pb2
from flyteidl2.task import common_pb2

from propfan.engine import Engine, Submission
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.connector import ConnectorSetup, JobContext, LogsQuery, RemotePhase, Resource, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.testing import literal_map, task_template
from propfan.pluginmachinery.testing.connector_contract import ConnectorContract, JobStory
from propfan.pluginmachinery.testing.connector_fakes import connector_setup, connector_task
from propfan.plugins.connectors.slurm.connector import SlurmConnector, SlurmMeta
from tests.peers import environments, slurm_cluster
from tests.peers.connector_peers import engine_with
from tests.peers.slurm_cluster import SlurmCluster
from tests.unit.engine.connector_service import rig

pytestmark = [pytest.mark.peer, pytest.mark.anyio]

REQUIREMENTS = ("flytekit>=1.16.31,<2", "flytekitplugins-slurm>=1.16.31,<2")
PROGRAM = Path(__file__).parent / "programs" / "flytekit_slurm_tasks.py"
SECRET = "FLYTE_SLURM_PRIVATE_KEY"
JOB = JobContext()


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    if reason := slurm_cluster.missing_programs():
        pytest.skip(reason)
    with SlurmCluster() as made:
        yield made


def section(cluster: SlurmCluster, **more: Any) -> Mapping[str, Any]:
    known = {"known-hosts": str(cluster.known_hosts), "ssh-config": str(cluster.ssh_config)}
    return {**known, "folder": str(cluster.folder / "notes"), **more}


def setup_of(cluster: SlurmCluster, key: str | None = None, **more: Any) -> ConnectorSetup:
    return connector_setup(secrets={SECRET: key or cluster.private_key}, sections={"slurm": section(cluster, **more)})


@pytest.fixture
async def connector(anyio_backend: Any, cluster: SlurmCluster) -> AsyncIterator[SlurmConnector]:
    made = SlurmConnector(setup_of(cluster))
    yield made
    await made.close()


def custom(script: str, **more: Any) -> Mapping[str, Any]:
    return {"ssh_config": {"host": "cluster"}, "script": script, **more}


def script_task(run: str, script: str, **more: Any) -> TaskRequest:
    return connector_task(task_template("slurm", custom=custom(script, **more)), run=run)


async def until(
    connector: SlurmConnector, meta: SlurmMeta, wanted: Callable[[RemotePhase], bool] = lambda phase: phase.is_terminal
) -> Resource:
    with anyio.fail_after(60):
        while True:
            resource = await connector.get(meta, JOB)
            if wanted(RemotePhase(resource.phase)):
                return resource
            await anyio.sleep(0.2)


async def log_of(connector: SlurmConnector, meta: SlurmMeta) -> list[str]:
    return [line.message async for page in connector.get_logs(meta, LogsQuery()) for line in page.lines]


async def test_script_runs_with_its_options_and_arguments(cluster: SlurmCluster, connector: SlurmConnector) -> None:
    script = "#!/bin/bash\n#SBATCH --comment=lost\nprintf '%s\\n' \"$@\" $SLURM_JOB_NAME $SLURM_CPUS_PER_TASK"
    options = {"job-name": "train it", "cpus-per-task": 2, "output": str(cluster.folder / "out put.%j")}
    hostile = ["a  b", "$(id)", "'", ";"]
    meta = await connector.create(script_task("run", script, sbatch_config=options, batch_script_args=hostile))
    resource = await until(connector, meta)
    assert resource.phase is RemotePhase.SUCCEEDED, resource.message
    assert meta.stdout == str(cluster.folder / f"out put.{meta.job_id}")
    assert await log_of(connector, meta) == [*hostile, "train", "it", "2"]
    assert resource.custom_info is not None
    assert resource.custom_info["JobName"] == "train it"
    assert resource.custom_info["ExitCode"] == "0:0"


async def test_script_of_the_cluster_runs(cluster: SlurmCluster, connector: SlurmConnector) -> None:
    path = cluster.folder / "my job.sh"
    path.write_text("#!/bin/sh\necho from the cluster $1\n")
    template = {"ssh_config": {"host": "cluster"}, "batch_script_path": str(path), "batch_script_args": ["x"]}
    options = {"output": str(cluster.folder / "%j.out")}
    task = connector_task(task_template("slurm", custom={**template, "sbatch_config": options}), run="own")
    meta = await connector.create(task)
    assert (await until(connector, meta)).phase is RemotePhase.SUCCEEDED
    assert await log_of(connector, meta) == ["from the cluster x"]


async def test_failure_is_told_with_code_and_output(connector: SlurmConnector) -> None:
    meta = await connector.create(script_task("fails", "echo no such table >&2; exit 7"))
    resource = await until(connector, meta)
    assert resource.phase is RemotePhase.FAILED
    assert "FAILED, exit code 7 (NonZeroExitCode)" in resource.message
    assert resource.message.endswith("no such table")


async def test_signal_is_told(connector: SlurmConnector) -> None:
    meta = await connector.create(script_task("killed", "kill -SEGV $$"))
    assert "signal 11 (SIGSEGV)" in (await until(connector, meta)).message


async def test_deleted_job_is_cancelled(cluster: SlurmCluster, connector: SlurmConnector) -> None:
    meta = await connector.create(script_task("aborted", "sleep 1000"))
    await until(connector, meta, lambda phase: phase is RemotePhase.RUNNING)
    await connector.delete(meta, JOB)
    resource = await until(connector, meta)
    assert resource.phase is RemotePhase.ABORTED
    assert "JobState=CANCELLED" in cluster.slurm("scontrol", "show", "job", meta.job_id)
    await connector.delete(meta, JOB)
    await connector.delete(msgspec.structs.replace(meta, job_id="999999"), JOB)


async def test_job_that_can_not_start_tells_why(cluster: SlurmCluster, connector: SlurmConnector) -> None:
    options = {"output": "/dev/null", "exclusive": ""}
    first = await connector.create(script_task("first", "sleep 1000", sbatch_config=options))
    await until(connector, first, lambda phase: phase is RemotePhase.RUNNING)
    second = await connector.create(script_task("second", "true", sbatch_config=options))
    resource = await until(connector, second, lambda phase: phase is RemotePhase.WAITING_FOR_RESOURCES)
    assert "PENDING (Resources)" in resource.message
    await connector.delete(first, JOB)
    assert (await until(connector, second)).phase is RemotePhase.SUCCEEDED


async def test_launch_that_is_asked_for_again_is_one_job(cluster: SlurmCluster, connector: SlurmConnector) -> None:
    before = len(cluster.job_ids())
    task = script_task("again", "sleep 1000")
    made: list[SlurmMeta] = []

    async def create() -> None:
        made.append(await connector.create(task))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(create)
    for note in (cluster.folder / "notes").glob("again-*.job"):
        note.unlink()  # so that Slurm's own queue has to tell
    await create()
    assert [meta.job_id for meta in made] == [made[0].job_id] * 5
    assert len(cluster.job_ids()) == before + 1
    await connector.delete(made[0], JOB)


async def test_what_slurm_refuses_is_refused(connector: SlurmConnector) -> None:
    with pytest.raises(BadTaskSpecificationError, match="Invalid partition name specified"):
        await connector.create(script_task("partition", "true", sbatch_config={"partition": "none"}))
    with pytest.raises(BadTaskSpecificationError, match="map task"):
        await connector.create(script_task("array", "#!/bin/sh\n#SBATCH --array=1-3\n"))


async def test_job_that_slurm_does_not_know_is_over(cluster: SlurmCluster, connector: SlurmConnector) -> None:
    meta = await connector.create(script_task("unknown", "true"))
    resource = await connector.get(msgspec.structs.replace(meta, job_id="999999"), JOB)
    assert resource.phase is RemotePhase.FAILED
    assert "AccountingStorageType" in resource.message


async def test_job_that_slurm_has_forgotten_is_told_without_its_end(anyio_backend: Any) -> None:
    if reason := slurm_cluster.missing_programs():
        pytest.skip(reason)
    with SlurmCluster(min_job_age_s=2) as forgetful:
        connector = SlurmConnector(setup_of(forgetful))
        options = {"output": str(forgetful.folder / "%j.out")}
        meta = await connector.create(script_task("forgotten", "echo so it was", sbatch_config=options))
        await until(connector, meta)
        await rig.until(lambda: not forgetful.slurm("scontrol", "show", "job", meta.job_id, check=False))
        resource = await connector.get(meta, JOB)
        assert resource.phase is RemotePhase.FAILED
        assert "AccountingStorageType" in resource.message
        assert resource.message.endswith("so it was")
        assert await connector.create(script_task("forgotten", "echo so it was", sbatch_config=options)) == meta
        await connector.close()


async def test_restart_of_the_ssh_server_costs_at_most_a_look(cluster: SlurmCluster, connector: SlurmConnector) -> None:
    meta = await connector.create(script_task("restart", "true"))
    cluster.stop_sshd()
    with pytest.raises(TransientError):
        await connector.get(meta, JOB)
    cluster.start_sshd()
    assert (await until(connector, meta)).phase is RemotePhase.SUCCEEDED


async def test_wrong_key_is_told(cluster: SlurmCluster) -> None:
    connector = SlurmConnector(setup_of(cluster, cluster.wrong_key))
    with pytest.raises(PermanentError, match="none of the keys") as refused:
        await connector.create(script_task("stranger", "true"))
    assert refused.value.code == "ServiceNotAllowed"
    await connector.close()


async def test_unknown_host_key_is_told(cluster: SlurmCluster, tmp_path: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{cluster.port} {other}")
    connector = SlurmConnector(setup_of(cluster, **{"known-hosts": str(tmp_path / "known_hosts")}))
    with pytest.raises(PermanentError, match="known-hosts") as refused:
        await connector.create(script_task("imposter", "true"))
    assert refused.value.code == "HostKeyNotTrusted"
    await connector.close()


async def test_command_line_runs_a_task(cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(
        msgspec.json.encode({"type": "slurm", "id": {"name": "hello"}, "custom": custom("sleep 2; exit 3")})
    )
    (tmp_path / "service.yaml").write_bytes(msgspec.json.encode({"connectors": {"slurm": section(cluster)}}))
    command = [str(Path(sys.executable).with_name("propfan")), "connector", "run", str(tmp_path / "job.yaml")]
    done = await anyio.run_process(
        [*command, "-c", str(tmp_path / "service.yaml")],
        env={**os.environ, f"_FSEC_{SECRET}": cluster.private_key},
        check=False,
    )
    told = (done.stdout + done.stderr).decode()
    assert done.returncode != 0
    assert re.search(r"running: Slurm job \d+ \(hello-\w+\): RUNNING on", told), told
    assert re.search(r"failed: Slurm job \d+ \(hello-\w+\): FAILED, exit code 3", told)


class TestService:
    """By a control plane, over gRPC."""

    async def test_function_writes_its_outputs(self, cluster: SlurmCluster, tmp_path: Path) -> None:
        prefix = f"file://{tmp_path}/outputs"
        (tmp_path / "outputs").mkdir()
        (tmp_path / "made.pb").write_bytes(common_pb2.Outputs().SerializeToString())
        function = task_template(
            "slurm_fn",
            image="unused",
            args=("cp", str(tmp_path / "made.pb"), "{{.outputPrefix}}/outputs.pb"),
            custom=custom("#!/bin/bash\n{task.fn}\n"),
        )
        function.container.args[2] = f"{tmp_path}/outputs/outputs.pb"
        resource = await self.served(cluster, function, prefix)
        assert resource.phase == execution_pb2.TaskExecution.SUCCEEDED, resource.message
        assert (tmp_path / "outputs" / "outputs.pb").exists()
        assert dict(resource.custom_info)["JobState"] == "COMPLETED"

    async def test_script_fails_in_words(self, cluster: SlurmCluster, tmp_path: Path) -> None:
        template = task_template("slurm", custom=custom("echo gone wrong; exit 3"))
        resource = await self.served(cluster, template, f"file://{tmp_path}/failing")
        assert resource.phase == execution_pb2.TaskExecution.FAILED
        assert resource.message.endswith("gone wrong")

    async def served(self, cluster: SlurmCluster, template: Any, prefix: str) -> connector_pb2.Resource:
        config = msgspec.structs.replace(rig.CONFIG, connectors={"slurm": section(cluster)})
        secrets = {f"_FSEC_{SECRET}": cluster.private_key}
        async with rig.serving(SlurmConnector, config=config, **secrets) as service:
            request = connector_pb2.CreateTaskRequest(template=template, output_prefix=prefix)
            meta = (await service.client.connector.CreateTask(request)).resource_meta
            assert b"PRIVATE KEY" not in meta
            get = connector_pb2.GetTaskRequest(
                resource_meta=meta, task_category=rig.category(template.type), output_prefix=prefix
            )
            with anyio.fail_after(60):
                while True:
                    resource: connector_pb2.Resource = (await service.client.connector.GetTask(get)).resource
                    if RemotePhase(resource.phase).is_terminal:
                        return resource
                    await anyio.sleep(0.2)


@pytest.fixture(scope="module")
def templates(cluster: SlurmCluster) -> Mapping[str, bytes]:
    python = environments.folder("flytekit-slurm", REQUIREMENTS) / "bin" / "python"
    script = cluster.folder / "of the cluster.sh"
    script.write_text('#!/bin/sh\necho "$#" "$2"\n')
    file = cluster.folder / "templates.json"
    variables = {
        "SLURM_PEER_FOLDER": str(cluster.folder),
        "SLURM_PEER_SCRIPT": str(script),
        "PATH": os.environ["PATH"],
    }
    variables["SLURM_PEER_USER"] = slurm_cluster.user_name()
    command = [str(python), str(PROGRAM), str(file), "cluster"]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=variables)
    made: Mapping[str, str] = msgspec.json.decode(file.read_bytes())
    return {name: base64.b64decode(template) for name, template in made.items()}


class TestFlytekit:
    """Tasks of the SDK's plugin, unchanged, by a whole engine."""

    @pytest.fixture
    async def engine(self, anyio_backend: Any, cluster: SlurmCluster, tmp_path: Path) -> AsyncIterator[Engine]:
        config = msgspec.structs.replace(rig.CONFIG, connectors={"slurm": section(cluster)})
        secrets = {f"_FSEC_{SECRET}": cluster.private_key}
        async with rig.serving(SlurmConnector, config=config, **secrets) as service:
            port = int(service.service.address.rpartition(":")[2])
            async with engine_with(port, tmp_path / "state") as running:
                yield running

    async def ends(self, engine: Engine, template: bytes, **inputs: Any) -> TaskStatus:
        given = literal_map(**inputs).SerializeToString() if inputs else None
        with anyio.fail_after(120):
            return await engine.wait(await engine.submit(Submission(template=template, inputs=given)))

    async def test_function_runs_on_the_cluster(self, engine: Engine, templates: Mapping[str, bytes]) -> None:
        status = await self.ends(engine, templates["double"], number=21)
        assert status.outcome is Outcome.COMPLETED, status
        content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
        assert literals_pb2.LiteralMap.FromString(content).literals["o0"].scalar.primitive.integer == 42

    async def test_error_of_a_function_is_the_tasks(self, engine: Engine, templates: Mapping[str, bytes]) -> None:
        status = await self.ends(engine, templates["double"], number=-1)
        assert status.outcome is Outcome.FAILED
        assert "numbers begin at 0" in str(status)

    @pytest.mark.parametrize("name", ["shell", "script"])
    async def test_scripts_run_on_the_cluster(
        self, engine: Engine, cluster: SlurmCluster, templates: Mapping[str, bytes], name: str
    ) -> None:
        before = set(cluster.job_ids())
        status = await self.ends(engine, templates[name])
        assert status.outcome is Outcome.COMPLETED, status
        (job_id,) = set(cluster.job_ids()) - before
        (output,) = cluster.folder.glob(f"*.{job_id}")
        launch = output.name.removesuffix(f".{job_id}")
        assert output.read_text() == {"shell": f"{launch}\n", "script": "2 b c\n"}[name]

    async def test_aborted_task_leaves_no_job(
        self, engine: Engine, cluster: SlurmCluster, templates: Mapping[str, bytes]
    ) -> None:
        template = tasks_pb2.TaskTemplate.FromString(templates["shell"])
        template.custom.update({"script": "#!/bin/bash\nsleep 1000\n"})
        handle = await engine.submit(Submission(template=template.SerializeToString()))
        with anyio.fail_after(120):
            await rig.until(lambda: cluster.slurm("squeue", "--noheader", "--states=RUNNING"))
            await engine.abort(handle, "enough")
            status = await engine.wait(handle)
            await rig.until(lambda: not cluster.slurm("squeue", "--noheader"))
        assert status.outcome is Outcome.ABORTED


class TestContract(ConnectorContract):
    connector_class = SlurmConnector
    stories = (
        JobStory("script", script_task("story-1", "echo hi"), RemotePhase.SUCCEEDED, message="COMPLETED"),
        JobStory("script that fails", script_task("story-2", "exit 3"), RemotePhase.FAILED, message="exit code 3"),
    )

    @pytest.fixture
    def setup_ctx(self, cluster: SlurmCluster, tmp_path: Path) -> ConnectorSetup:
        return setup_of(cluster, folder=str(tmp_path))

    async def between_looks(self) -> None:
        await anyio.sleep(0.2)
