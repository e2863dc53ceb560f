"""Programs that the durability tests run in processes of their own: ``python writer.py ROLE PATH``."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import anyio
import msgspec

from propfan.engine.cluster import POD
from propfan.engine.embedded import EmbeddedCluster
from propfan.pluginmachinery.errors import NotFoundError, UnavailableError
from tests.contract.objects import body, content

FILE_LIMIT_BYTES = 1_000_000


def acknowledge(*what: object) -> None:
    os.write(1, " ".join(map(str, what)).encode() + b"\n")


async def write_for_ever(path: Path) -> None:
    """Says what was acknowledged, until it is killed."""
    async with EmbeddedCluster.open(path) as cluster, anyio.create_task_group() as tasks:

        async def write(writer: int) -> None:
            number = 0
            while True:
                name = f"w{writer}-{number}"
                await cluster.create(POD, body(POD, "n", name, {"size": 0}))
                acknowledge("created", name)
                await cluster.patch(POD, "n", name, {"status": {"phase": "Running"}}, subresource="status")
                acknowledge("running", name)
                await cluster.patch(POD, "n", name, {"spec": {"size": number}})
                acknowledge("sized", name, number)
                await cluster.append_events([(f"n/{name}", b"payload")])
                acknowledge("event", name)
                if number % 3 == 0:
                    await cluster.delete(POD, "n", name)
                    acknowledge("deleted", name)
                number += 1

        for writer in range(8):
            tasks.start_soon(write, writer)


async def fill_up(path: Path) -> None:
    """Writes against a limit of the file's size, then without; reports what it found as JSON."""
    async with EmbeddedCluster.open(path) as cluster:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, resource.RLIM_INFINITY))
        message, written = "", 0
        while not message:
            try:
                await cluster.create(POD, body(POD, "n", f"a{written}", {"x": "x" * 20_000}))
                written += 1
            except UnavailableError as error:
                message = str(error)
        listed = len((await cluster.list(POD, limit=0)).items)
        try:
            await cluster.get(POD, "n", f"a{written}")
            is_half_done = True
        except NotFoundError:
            is_half_done = False
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await cluster.create(POD, body(POD, "n", f"a{written}", {"x": "after"}))
        after = content(await cluster.get(POD, "n", f"a{written}"))["spec"]["x"]
    report = {"message": message, "written": written, "listed": listed, "is_half_done": is_half_done, "after": after}
    acknowledge(msgspec.json.encode(report).decode())


if __name__ == "__main__":
    anyio.run({"write": write_for_ever, "fill": fill_up}[sys.argv[1]], Path(sys.argv[2]))
