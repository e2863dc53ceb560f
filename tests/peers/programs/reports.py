"""A report that can be downloaded."""

import client
import flyte
import flyte.report

env = flyte.TaskEnvironment(name="reports", image="python:3.11")


@env.task(report=True)
async def main() -> int:
    await flyte.report.replace.aio("<h1>hello</h1>")
    await flyte.report.flush.aio()
    return 1


if __name__ == "__main__":
    client.connect()
    run = flyte.run(main)
    run.wait(quiet=True)
    client.answer([tuple(run.outputs())[0], client.report_of(run.name)])
