"""Jobs on a login node in this process: what is submitted, told and left behind."""

from __future__ import annotations

import os
import stat

import anyio
import msgspec
import pytest
from flyteidl2.core import execution_pb2

from propfan.pluginmachinery.connector import JobContext, LogsQuery, RemotePhase, Resource, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError, PermanentError, TransientError
from propfan.pluginmachinery.testing import task_template
from propfan.pluginmachinery.testing.connector_fakes import connector_task
from propfan.pluginmachinery.testing.fakes import InMemoryStore
from propfan.plugins.connectors.slurm.connections import Address
from propfan.plugins.connectors.slurm.connector import SlurmConnector, SlurmMeta
from tests.unit.plugins.connectors.slurm.cluster import KEY, SECRET, Cluster, script_task
from tests.unit.plugins.connectors.slurm.fake_slurm import Told

pytestmark = pytest.mark.anyio

PREFIX = "memory:///r1/a0/1"
JOB = JobContext(PREFIX)


def function_task() -> TaskRequest:
    custom = {"ssh_config": {"host": "cluster"}, "script": "#!/bin/bash\n{task.fn}\n"}
    return connector_task(
        task_template("slurm_fn", image="unused", args=("true",), custom=custom), output_prefix=PREFIX
    )


async def to_the_end(connector: SlurmConnector, meta: SlurmMeta) -> Resource:
    for _ in range(5):
        resource = await connector.get(meta, JOB)
        if resource.phase.is_terminal:
            return resource
    pytest.fail("not over")


async def lines(connector: SlurmConnector, meta: SlurmMeta, query: LogsQuery) -> tuple[list[str], str]:
    read, token = [], ""
    async for page in connector.get_logs(meta, query):
        read += [line.message for line in page.lines]
        token = page.next_token
    return read, token


async def test_no_shell_looks_into_options_and_arguments(cluster: Cluster, connector: SlurmConnector) -> None:
    hostile = ["$(touch pwned)", "`touch pwned`", "; touch pwned", "'", '"', "a  b", "", "-n", "*"]
    config = {"comment": "x'; touch pwned; '", "output": str(cluster.folder / "out put.$(id)")}
    task = script_task('#!/bin/bash\nprintf "%s\\n" "$@"', batch_script_args=hostile, sbatch_config=config)
    meta = await connector.create(task)
    assert (await to_the_end(connector, meta)).phase is RemotePhase.SUCCEEDED
    (job,) = cluster.slurm.jobs
    assert job.arguments == hostile
    assert job.comment == f"x'; touch pwned; ' propfan:{meta.name}"
    assert not (cluster.folder / "pwned").exists()
    assert await lines(connector, meta, LogsQuery()) == (hostile, "")


async def test_script_of_the_cluster_is_submitted_as_it_is(cluster: Cluster, connector: SlurmConnector) -> None:
    (cluster.folder / "my job.sh").write_text("#!/bin/sh\necho $1\n")
    for path in (str(cluster.folder / "my job.sh"), "~/my job.sh"):
        task = script_task(batch_script_path=path, batch_script_args=["x"], run=f"r{len(path)}")
        meta = await connector.create(task)
        assert (await to_the_end(connector, meta)).phase is RemotePhase.SUCCEEDED
    assert [call[-2:] for call in cluster.slurm.called("sbatch")] == [[str(cluster.folder / "my job.sh"), "x"]] * 2


async def test_job_bears_the_launch_or_the_name_that_the_user_gave(cluster: Cluster, connector: SlurmConnector) -> None:
    plain = await connector.create(script_task("echo"))
    named = await connector.create(script_task("echo", run="r2", sbatch_config={"job-name": "train it"}))
    assert [job.name for job in cluster.slurm.jobs] == [plain.name, "train it"]
    assert cluster.slurm.jobs[1].comment == f"propfan:{named.name}"


async def test_nothing_of_a_script_is_left_on_the_login_node(cluster: Cluster, connector: SlurmConnector) -> None:
    meta = await connector.create(script_task("echo"))
    with pytest.raises(BadTaskSpecificationError):
        await connector.create(script_task("echo", run="r2", sbatch_config={"partition": "none"}))
    notes = cluster.folder / "notes"
    assert not list(notes.glob("*.slurm"))
    assert (notes / f"{meta.name}.job").read_text().startswith("1\n")
    assert stat.S_IMODE(notes.stat().st_mode) == 0o700


async def test_login_shell_may_greet(cluster: Cluster, connector: SlurmConnector) -> None:
    cluster.greeting = "Welcome to JobState=COMPLETED!\n17\n"
    meta = await connector.create(script_task("exit 4"))
    assert meta.job_id == "1"
    assert (await to_the_end(connector, meta)).phase is RemotePhase.FAILED


class TestOneJobForOneLaunch:
    async def test_after_the_controller_forgot_it(self, cluster: Cluster, connector: SlurmConnector) -> None:
        meta = await connector.create(script_task("echo"))
        cluster.slurm.jobs[0].is_gone = True
        assert await connector.create(script_task("echo")) == meta
        assert len(cluster.slurm.jobs) == 1

    async def test_after_the_record_was_lost(self, cluster: Cluster, connector: SlurmConnector) -> None:
        meta = await connector.create(script_task("echo"))
        (cluster.folder / "notes" / f"{meta.name}.job").unlink()
        assert await connector.create(script_task("echo")) == meta
        assert len(cluster.slurm.jobs) == 1

    async def test_whose_record_can_not_be_written(self, cluster: Cluster, connector: SlurmConnector) -> None:
        task = script_task("echo")
        (cluster.folder / "notes" / f"{task.unique_name()}.job.new").mkdir(parents=True)
        meta = await connector.create(task)
        assert await connector.create(task) == meta
        assert len(cluster.slurm.jobs) == 1

    async def test_another_one_of_the_same_name_is_not_taken_for_it(
        self, cluster: Cluster, connector: SlurmConnector
    ) -> None:
        config = {"job-name": "train"}
        first = await connector.create(script_task("echo", sbatch_config=config))
        second = await connector.create(script_task("echo", sbatch_config=config, run="r2"))
        assert (first.job_id, second.job_id) == ("1", "2")

    async def test_calls_at_once(self, cluster: Cluster, connector: SlurmConnector) -> None:
        made: list[SlurmMeta] = []

        async def create() -> None:
            made.append(await connector.create(script_task("echo")))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(create)
        assert len(cluster.slurm.jobs) == 1
        assert made == [made[0]] * 5


class TestFailures:
    async def test_message_ends_with_what_the_job_wrote(self, connector: SlurmConnector) -> None:
        script = "for i in $(seq 100); do echo line $i; done; echo no such file >&2; exit 2"
        resource = await to_the_end(connector, await connector.create(script_task(script)))
        assert resource.phase is RemotePhase.FAILED
        assert "FAILED, exit code 2 (NonZeroExitCode)" in resource.message
        assert resource.message.endswith("line 100\nno such file")
        assert "line 50\n" not in resource.message

    async def test_errors_of_their_own_file_are_told_too(self, cluster: Cluster, connector: SlurmConnector) -> None:
        meta = await connector.create(script_task("echo out; exit 1"))
        (cluster.folder / "err").write_text("what went wrong\n")
        cluster.slurm.jobs[0].stderr = str(cluster.folder / "err")
        resource = await to_the_end(connector, meta)
        assert resource.message.endswith(f"ends with:\nout\n{cluster.folder / 'err'} ends with:\nwhat went wrong")

    @pytest.mark.parametrize("name", ["none", "fifo"])
    async def test_output_that_can_not_be_read_costs_only_itself(
        self, cluster: Cluster, connector: SlurmConnector, name: str
    ) -> None:
        os.mkfifo(cluster.folder / "fifo")
        meta = await connector.create(script_task("exit 1"))
        cluster.slurm.jobs[0].state = "FAILED"
        cluster.slurm.jobs[0].exit = "1:0"
        cluster.slurm.jobs[0].stdout = str(cluster.folder / name)
        resource = await connector.get(meta, JOB)
        assert resource.message.endswith("FAILED, exit code 1")

    @pytest.mark.parametrize(
        ("state", "phase"),
        [
            ("NODE_FAIL", RemotePhase.RETRYABLE_FAILED),
            ("PREEMPTED", RemotePhase.RETRYABLE_FAILED),
            ("OUT_OF_MEMORY", RemotePhase.FAILED),
            ("CANCELLED", RemotePhase.ABORTED),
            ("SUSPENDED", RemotePhase.RUNNING),
        ],
    )
    async def test_states_are_told(
        self, cluster: Cluster, connector: SlurmConnector, state: str, phase: RemotePhase
    ) -> None:
        meta = await connector.create(script_task("echo"))
        cluster.slurm.jobs[0].state = state
        resource = await connector.get(meta, JOB)
        assert resource.phase is phase
        assert state in resource.message

    async def test_state_of_a_later_version_is_named(self, cluster: Cluster, connector: SlurmConnector) -> None:
        meta = await connector.create(script_task("echo"))
        cluster.slurm.jobs[0].state = "DANCING"
        with pytest.raises(DecodeError, match="DANCING"):
            await connector.get(meta, JOB)

    async def test_reason_is_told_while_it_waits(self, cluster: Cluster, connector: SlurmConnector) -> None:
        meta = await connector.create(script_task("echo"))
        cluster.slurm.jobs[0].state = "PENDING"
        cluster.slurm.jobs[0].reason = "ReqNodeNotAvail,_UnavailableNodes:n7"
        resource = await connector.get(meta, JOB)
        assert resource.phase is RemotePhase.WAITING_FOR_RESOURCES
        assert "PENDING (ReqNodeNotAvail,_UnavailableNodes:n7)" in resource.message

    async def test_deleted_job_is_aborted(self, connector: SlurmConnector) -> None:
        meta = await connector.create(script_task("echo"))
        await connector.delete(meta, JOB)
        assert (await connector.get(meta, JOB)).phase is RemotePhase.ABORTED


class TestForgottenJobs:
    async def test_accounting_tells_how_they_ended(self, cluster: Cluster, connector: SlurmConnector) -> None:
        meta = await connector.create(script_task("exit 5"))
        await to_the_end(connector, meta)
        cluster.slurm.jobs[0].is_gone = True
        cluster.slurm.has_accounting = True
        resource = await connector.get(meta, JOB)
        assert resource.phase is RemotePhase.FAILED
        assert "FAILED, exit code 5" in resource.message

    async def test_without_accounting_the_end_is_not_known(self, cluster: Cluster, connector: SlurmConnector) -> None:
        meta = await connector.create(script_task("echo it was so"))
        await to_the_end(connector, meta)
        cluster.slurm.jobs[0].is_gone = True
        resource = await connector.get(meta, JOB)
        assert resource.phase is RemotePhase.FAILED
        assert "AccountingStorageType" in resource.message
        assert resource.message.endswith("it was so")
        await connector.delete(meta, JOB)

    async def test_function_that_left_outputs_has_succeeded(self, cluster: Cluster) -> None:
        store = InMemoryStore()
        connector = SlurmConnector(msgspec.structs.replace(cluster.setup(), store=store))
        try:
            meta = await connector.create(function_task())
            cluster.slurm.jobs[0].is_gone = True
            assert (await connector.get(meta, JOB)).phase is RemotePhase.FAILED
            await store.put(f"{PREFIX}/outputs.pb", b"")
            assert (await connector.get(meta, JOB)).phase is RemotePhase.SUCCEEDED
        finally:
            await connector.close()

    async def test_meta_of_no_job_is_one(self, connector: SlurmConnector) -> None:
        for job_id in ("", "-1", "1; rm", "17"):
            meta = SlurmMeta(job_id, "n", Address("cluster"))
            assert (await connector.get(meta, JOB)).phase is RemotePhase.FAILED
            await connector.delete(meta, JOB)
            assert await lines(connector, meta, LogsQuery()) == ([], "")


@pytest.mark.parametrize("ends_with", [0, 1])
async def test_error_that_a_function_left_is_its_message(cluster: Cluster, ends_with: int) -> None:
    store = InMemoryStore()
    error = execution_pb2.ContainerError(
        code="ValueError", message="no rows", kind=execution_pb2.ContainerError.RECOVERABLE
    )
    await store.put(f"{PREFIX}/error.pb", execution_pb2.ErrorDocument(error=error).SerializeToString())
    connector = SlurmConnector(msgspec.structs.replace(cluster.setup(), store=store))
    try:
        meta = await connector.create(function_task())
        cluster.slurm.jobs[0].state = "FAILED" if ends_with else "COMPLETED"
        cluster.slurm.jobs[0].exit = f"{ends_with}:0"
        resource = await connector.get(meta, JOB)
    finally:
        await connector.close()
    assert resource.phase is RemotePhase.RETRYABLE_FAILED
    assert resource.message.startswith("[ValueError] no rows\nSlurm job 1")


class TestFaults:
    @pytest.mark.parametrize(
        "told",
        [
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates...",
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        ],
    )
    async def test_controller_that_takes_no_job_now_is_asked_later(
        self, cluster: Cluster, connector: SlurmConnector, told: str
    ) -> None:
        cluster.slurm.faults["sbatch"] = Told("", told, 1)
        with pytest.raises(TransientError) as raised:
            await connector.create(script_task("echo"))
        assert raised.value.retry_after_s > 0
        assert told.splitlines()[0] in str(raised.value)
        cluster.slurm.faults.clear()
        assert (await connector.create(script_task("echo"))).job_id == "1"

    async def test_job_that_slurm_refuses_is_refused_in_its_words(self, connector: SlurmConnector) -> None:
        task = script_task("echo", sbatch_config={"partition": "nowhere"})
        with pytest.raises(BadTaskSpecificationError, match="Invalid partition name specified"):
            await connector.create(task)
        with pytest.raises(BadTaskSpecificationError, match="unrecognized option '--no-such'"):
            await connector.create(script_task("echo", sbatch_config={"no-such": 1}))
        with pytest.raises(BadTaskSpecificationError, match="Unable to open file /none"):
            await connector.create(script_task(batch_script_path="/none"))

    async def test_nothing_is_submitted_while_the_queue_can_not_be_seen(
        self, cluster: Cluster, connector: SlurmConnector
    ) -> None:
        cluster.slurm.faults["squeue"] = Told("", "slurm_load_jobs error: Unable to contact slurm controller", 1)
        with pytest.raises(TransientError, match="squeue"):
            await connector.create(script_task("echo"))
        assert not cluster.slurm.jobs

    @pytest.mark.parametrize("program", ["scontrol", "sacct", "scancel"])
    async def test_controller_that_is_away_is_asked_again(
        self, cluster: Cluster, connector: SlurmConnector, program: str
    ) -> None:
        meta = await connector.create(script_task("echo"))
        cluster.slurm.jobs[0].is_gone = program == "sacct"
        cluster.slurm.faults[program] = Told("", "error: Unable to contact slurm controller (connect failure)\n", 1)
        with pytest.raises(TransientError, match=f"{program}.*Unable to contact"):
            await (connector.delete(meta, JOB) if program == "scancel" else connector.get(meta, JOB))

    async def test_job_of_another_user_is_not_asked_for_again(
        self, cluster: Cluster, connector: SlurmConnector
    ) -> None:
        meta = await connector.create(script_task("echo"))
        cluster.slurm.faults["scancel"] = Told(
            "", "scancel: error: Kill job error on job id 1: Access/permission denied\n", 1
        )
        with pytest.raises(PermanentError, match="permission denied"):
            await connector.delete(meta, JOB)

    async def test_array_in_the_script_is_cancelled_and_refused(
        self, cluster: Cluster, connector: SlurmConnector
    ) -> None:
        task = script_task("#!/bin/bash\n#SBATCH --array=1-3\necho")
        for _ in range(2):
            with pytest.raises(BadTaskSpecificationError, match="map task"):
                await connector.create(task)
        assert [job.state for job in cluster.slurm.jobs] == ["CANCELLED"]

    async def test_cluster_without_slurm_is_told_with_a_way_out(
        self, cluster: Cluster, connector: SlurmConnector
    ) -> None:
        meta = await connector.create(script_task("echo"))
        cluster.uninstall("scontrol")
        with pytest.raises(PermanentError, match=r"scontrol.*connectors\.slurm\.programs"):
            await connector.get(meta, JOB)
        for program in ("sbatch", "squeue"):
            cluster.uninstall(program)
            with pytest.raises(PermanentError, match=rf"{program}.*connectors\.slurm\.programs"):
                await connector.create(script_task("echo", run="r2"))

    async def test_folder_that_can_not_be_written_is_told(self, cluster: Cluster) -> None:
        (cluster.folder / "file").touch()
        connector = SlurmConnector(cluster.setup(folder=str(cluster.folder / "file")))
        try:
            with pytest.raises(PermanentError, match=r"connectors\.slurm\.folder"):
                await connector.create(script_task("echo"))
        finally:
            await connector.close()

    async def test_programs_elsewhere_are_found(self, cluster: Cluster) -> None:
        elsewhere = cluster.folder / "opt slurm"
        (cluster.folder / "bin").rename(elsewhere)
        connector = SlurmConnector(cluster.setup(programs=str(elsewhere)))
        try:
            meta = await connector.create(script_task("echo"))
            assert (await to_the_end(connector, meta)).phase is RemotePhase.SUCCEEDED
        finally:
            await connector.close()


class TestLogs:
    async def written(self, cluster: Cluster, connector: SlurmConnector, content: bytes) -> SlurmMeta:
        meta = await connector.create(script_task("echo"))
        assert meta.stdout == str(cluster.folder / "slurm-1.out")
        (cluster.folder / "slurm-1.out").write_bytes(content)
        return meta

    async def test_pages_follow_each_other_by_their_token(self, cluster: Cluster, connector: SlurmConnector) -> None:
        meta = await self.written(cluster, connector, b"one\ntwo\nthree\nfour")
        read, token = await lines(connector, meta, LogsQuery(lines=2))
        assert (read, token) == (["one", "two"], "8")
        assert await lines(connector, meta, LogsQuery(lines=2, token=token)) == (["three", "four"], "")

    async def test_long_output_comes_in_pages(self, cluster: Cluster, connector: SlurmConnector) -> None:
        expected = [f"line {i} " + "x" * 500 for i in range(3000)]
        meta = await self.written(cluster, connector, "".join(f"{line}\n" for line in expected).encode())
        pages = [[line.message for line in page.lines] async for page in connector.get_logs(meta, LogsQuery())]
        assert [line for page in pages for line in page] == expected
        assert len(pages) > 3

    async def test_bytes_that_are_no_text_are_shown_all_the_same(
        self, cluster: Cluster, connector: SlurmConnector
    ) -> None:
        meta = await self.written(cluster, connector, b"\xff\n\n" + "ü\n".encode())
        assert await lines(connector, meta, LogsQuery()) == (["\ufffd", "", "ü"], "")

    async def test_line_without_end_comes_in_pieces(self, cluster: Cluster, connector: SlurmConnector) -> None:
        meta = await self.written(cluster, connector, b"x" * 600_000)
        read, token = await lines(connector, meta, LogsQuery())
        assert ("".join(read), token) == ("x" * 600_000, "")

    @pytest.mark.parametrize("token", ["99999", "nonsense", "-5"])
    async def test_strange_tokens_break_nothing(self, cluster: Cluster, connector: SlurmConnector, token: str) -> None:
        meta = await self.written(cluster, connector, b"one\n")
        assert (await lines(connector, meta, LogsQuery(token=token)))[1] == ""

    async def test_job_that_wrote_nothing_yet_has_no_lines(self, connector: SlurmConnector) -> None:
        meta = await connector.create(script_task("echo"))
        assert await lines(connector, meta, LogsQuery()) == ([], "")


async def test_custom_info_tells_where_and_when(connector: SlurmConnector) -> None:
    meta = await connector.create(script_task("echo"))
    resource = await to_the_end(connector, meta)
    assert resource.custom_info is not None
    expected = {"JobId": "1", "JobState": "COMPLETED", "NodeList": "n1", "StdOut": meta.stdout, "Partition": "main"}
    assert expected.items() <= resource.custom_info.items()


async def test_secret_that_the_task_brings_is_used(cluster: Cluster) -> None:
    connector = SlurmConnector(cluster.setup(key=None))
    task = script_task("echo")
    connection = msgspec.structs.replace(task.connection, secrets={SECRET: KEY})
    try:
        meta = await connector.create(msgspec.structs.replace(task, connection=connection))
        resource = await connector.get(meta, JobContext(connection=connection))
    finally:
        await connector.close()
    assert resource.phase is RemotePhase.RUNNING
