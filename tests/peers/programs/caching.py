"""Hits across runs, and a run that wants fresh outputs."""

import client
import flyte

env = flyte.TaskEnvironment(name="caching", image="python:3.11")


@env.task(cache="auto")
async def when(x: int) -> float:
    import time

    return time.time() + x


if __name__ == "__main__":
    client.connect()
    first, second = client.outputs(when, 5), client.outputs(when, 5)
    other = client.outputs(when, 6)
    fresh = flyte.with_runcontext(overwrite_cache=True).run(when, 5)
    fresh.wait(quiet=True)
    anew = tuple(fresh.outputs())[0]
    client.answer([first == second, other != first, anew != first, client.outputs(when, 5) == anew])
