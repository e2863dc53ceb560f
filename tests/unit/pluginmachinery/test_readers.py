from __future__ import annotations

import pytest
from flyteidl2.core import execution_pb2 as pb
from flyteidl2.core.literals_pb2 import KeyValuePair, Literal, LiteralMap, Primitive, Scalar
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral, Outputs, ProducedArtifact
from google.protobuf.message import Message

from propfan.pluginmachinery import readers
from propfan.pluginmachinery.contexts import ExecutionErrorDocument, IOPaths
from propfan.pluginmachinery.errors import DecodeError, ObjectNotFoundError, PermanentError, StorageError
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError
from propfan.pluginmachinery.testing.fakes import FailingStore, InMemoryStore

pytestmark = pytest.mark.anyio

PATHS = IOPaths(
    input_prefix="s3://b/in",
    output_prefix="s3://b/out",
    raw_output_prefix="s3://b/out",
    input="s3://b/in/inputs.pb",
    output="s3://b/out/outputs.pb",
    error="s3://b/out/error.pb",
    deck="s3://b/out/report.html",
    checkpoint_prefix="s3://b/out/_flytecheckpoints",
)
ONE = Literal(scalar=Scalar(primitive=Primitive(integer=1)))
LITERALS = LiteralMap(literals={"x": ONE, "y": ONE})


def store(path: str = "", content: Message | bytes = b"") -> InMemoryStore:
    return InMemoryStore({path: content if isinstance(content, bytes) else content.SerializeToString()})


class TestInputs:
    @pytest.mark.parametrize(
        "written",
        [
            LITERALS,
            Inputs(
                literals=[NamedLiteral(name="x", value=ONE), NamedLiteral(name="y", value=ONE)],
                context=[KeyValuePair(key="k", value="v")],
            ),
        ],
        ids=["LiteralMap", "Inputs"],
    )
    async def test_are_read_as_either_flyte_writes_them(self, written: Message) -> None:
        read = await readers.RemoteInputReader(store(PATHS.input, written), PATHS.input).read()
        assert read is not None
        assert dict(read.literals) == dict(LITERALS.literals)

    async def test_are_read_once(self) -> None:
        kept = store(PATHS.input, LITERALS)
        reader = readers.RemoteInputReader(kept, PATHS.input)
        first = await reader.read()
        kept.objects.clear()
        assert await reader.read() is first

    async def test_that_could_not_be_read_are_tried_again(self) -> None:
        kept = InMemoryStore()
        reader = readers.RemoteInputReader(kept, PATHS.input)
        with pytest.raises(ObjectNotFoundError):
            await reader.read()
        kept.objects[PATHS.input] = LITERALS.SerializeToString()
        assert await reader.read() == LITERALS

    async def test_of_an_empty_map_are_none(self) -> None:
        assert await readers.RemoteInputReader(store(PATHS.input), PATHS.input).read() is None

    async def test_of_a_task_without_inputs_are_not_looked_for(self) -> None:
        assert await readers.RemoteInputReader(FailingStore(), PATHS.input, expected=False).read() is None

    async def test_that_are_something_else_are_refused(self) -> None:
        with pytest.raises(DecodeError, match=r"^s3://b/in/inputs.pb: not a literal map: "):
            await readers.RemoteInputReader(store(PATHS.input, b"\xff"), PATHS.input).read()

    async def test_beyond_the_limit_are_refused(self) -> None:
        at_limit = readers.RemoteInputReader(store(PATHS.input, LITERALS), PATHS.input, limit_bytes=LITERALS.ByteSize())
        assert await at_limit.read() == LITERALS
        with pytest.raises(PermanentError, match="too large") as raised:
            await readers.RemoteInputReader(
                store(PATHS.input, LITERALS), PATHS.input, limit_bytes=LITERALS.ByteSize() - 1
            ).read()
        assert raised.value.code == "MetadataTooLarge"

    async def test_of_a_store_that_is_down_are_worth_a_retry(self) -> None:
        with pytest.raises(
            StorageError, match=r"failed to read data from dataDir \[s3://b/in/inputs.pb\]. Error: down"
        ):
            await readers.RemoteInputReader(FailingStore(), PATHS.input).read()


class TestError:
    async def test_is_none_without_a_document(self) -> None:
        assert await readers.RemoteOutputReader(InMemoryStore(), PATHS).read_error() is None

    @pytest.mark.parametrize(
        ("kind", "is_recoverable"),
        [(pb.ContainerError.RECOVERABLE, True), (pb.ContainerError.NON_RECOVERABLE, False)],
    )
    @pytest.mark.parametrize(
        ("origin", "blamed"),
        [
            (pb.ExecutionError.USER, ErrorKind.USER),
            (pb.ExecutionError.SYSTEM, ErrorKind.SYSTEM),
            (pb.ExecutionError.UNKNOWN, ErrorKind.UNKNOWN),
            (9, ErrorKind.UNKNOWN),
        ],
    )
    async def test_is_what_the_document_says(
        self,
        kind: pb.ContainerError.Kind,
        is_recoverable: bool,  # noqa: FBT001 - a column of the table
        origin: pb.ExecutionError.ErrorKind,
        blamed: ErrorKind,
    ) -> None:
        written = pb.ErrorDocument(error=pb.ContainerError(code="ValueError", message="m", kind=kind, origin=origin))
        read = await readers.RemoteOutputReader(store(PATHS.error, written), PATHS).read_error()
        assert read == ExecutionErrorDocument(ExecutionError("ValueError", "m", blamed, PATHS.error), is_recoverable)

    @pytest.mark.parametrize("content", [b"", b"\xff"])
    async def test_of_a_broken_document_is_the_systems_and_recoverable(self, content: bytes) -> None:
        read = await readers.RemoteOutputReader(store(PATHS.error, content), PATHS).read_error()
        assert read is not None
        assert (read.error.code, read.error.kind, read.is_recoverable) == (
            "ErrorFileBadFormat",
            ErrorKind.SYSTEM,
            True,
        )
        assert read.error.message.startswith("error not formatted correctly, ")
        assert read.error.message.endswith("@path [s3://b/out/error.pb]")

    async def test_with_a_long_message_loses_its_middle(self) -> None:
        message = "first" + "x" * 100_000 + "last"
        written = pb.ErrorDocument(error=pb.ContainerError(code="C", message=message))
        reader = readers.RemoteOutputReader(store(PATHS.error, written), PATHS, limit_bytes=10_000)
        read = await reader.read_error()
        assert read is not None
        assert read.error.code == "C"
        assert read.error.message.startswith("firstx")
        assert read.error.message.endswith("xlast")
        assert "characters left out" in read.error.message
        assert len(read.error.message) < readers.MAX_MESSAGE_CHARS + 100

    async def test_of_absurd_size_is_still_an_error(self) -> None:
        reader = readers.RemoteOutputReader(store(PATHS.error, b"x" * 1000), PATHS, limit_bytes=50)
        read = await reader.read_error()
        assert read is not None
        assert read.error.code == "ErrorFileTooLarge"
        assert read.error.message == (
            "error file @[s3://b/out/error.pb] is too large [1000] bytes, max allowed [800] bytes"
        )

    async def test_of_a_store_that_is_down_is_no_verdict(self) -> None:
        with pytest.raises(StorageError):
            await readers.RemoteOutputReader(FailingStore(), PATHS).read_error()


class TestOutputs:
    async def test_are_there_or_not(self) -> None:
        assert await readers.RemoteOutputReader(store(PATHS.output, LITERALS), PATHS).exists()
        assert await readers.RemoteOutputReader(store(PATHS.output), PATHS).exists()
        assert not await readers.RemoteOutputReader(InMemoryStore(), PATHS).exists()

    async def test_are_read_as_they_are(self) -> None:
        assert await readers.RemoteOutputReader(store(PATHS.output, b"\xff"), PATHS).read() == b"\xff"
        with pytest.raises(ObjectNotFoundError):
            await readers.RemoteOutputReader(InMemoryStore(), PATHS).read()

    async def test_beyond_the_limit_are_refused(self) -> None:
        reader = readers.RemoteOutputReader(store(PATHS.output, b"xyz"), PATHS, limit_bytes=2)
        problem = r"output file @\[s3://b/out/outputs.pb\] is too large \[3\] bytes, max allowed \[2\] bytes"
        with pytest.raises(PermanentError, match=problem):
            await reader.exists()
        with pytest.raises(PermanentError, match=problem):
            await reader.read()

    async def test_may_come_with_a_report(self) -> None:
        assert await readers.RemoteOutputReader(store(PATHS.deck, b"<html>"), PATHS).has_report()
        assert not await readers.RemoteOutputReader(InMemoryStore(), PATHS).has_report()

    async def test_written_keep_their_order_and_artifacts(self) -> None:
        written = Outputs(
            literals=[NamedLiteral(name="o1", value=ONE), NamedLiteral(name="o0", value=ONE)],
            produced_artifacts=[ProducedArtifact()],
        )
        kept = InMemoryStore()
        await readers.RemoteOutputWriter(kept, PATHS).put(written)
        assert Outputs.FromString(kept.objects[PATHS.output]) == written

    async def test_written_by_a_map_are_read_as_outputs(self) -> None:
        kept = InMemoryStore()
        await readers.RemoteOutputWriter(kept, PATHS).put(LITERALS)
        assert [o.name for o in Outputs.FromString(kept.objects[PATHS.output]).literals] == ["x", "y"]

    async def test_nobody_could_read_are_not_written(self) -> None:
        kept = InMemoryStore()
        with pytest.raises(PermanentError, match="too large"):
            await readers.RemoteOutputWriter(kept, PATHS, limit_bytes=3).put(LITERALS)
        assert not kept.objects

    @pytest.mark.parametrize("kind", list(ErrorKind))
    @pytest.mark.parametrize("is_recoverable", [True, False])
    async def test_an_error_written_reads_back(self, kind: ErrorKind, is_recoverable: bool) -> None:  # noqa: FBT001
        document = ExecutionErrorDocument(ExecutionError("C", "m", kind, PATHS.error), is_recoverable)
        kept = InMemoryStore()
        await readers.RemoteOutputWriter(kept, PATHS).put_error(document)
        assert await readers.RemoteOutputReader(kept, PATHS).read_error() == document
