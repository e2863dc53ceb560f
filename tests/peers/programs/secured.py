"""A client that meets its control plane over TLS and shows a token: certificate and token are the next arguments."""

import asyncio
import sys

import client
import flyte

env = flyte.TaskEnvironment(name="secured", image="python:3.11")


@env.task
async def double(x: int) -> int:
    return 2 * x


@env.task
async def main(x: int) -> int:
    return sum(await asyncio.gather(double(x), double(x + 1)))


if __name__ == "__main__":
    flyte.init(
        endpoint=f"dns:///{sys.argv[1]}",
        ca_cert_file_path=sys.argv[2],
        auth_type="ExternalCommand",
        command=["cat", sys.argv[3]],
        project=client.PROJECT,
        domain=client.DOMAIN,
    )
    client.answer(client.outputs(main, 5))
