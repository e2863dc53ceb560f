"""What tasks send, as the job that it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from flyteidl2.core import interface_pb2, literals_pb2, types_pb2

from propfan.pluginmachinery.connector import Blob, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.testing import task_template
from propfan.pluginmachinery.testing.connector_fakes import connector_task
from propfan.plugins.connectors.slurm import payloads
from propfan.plugins.connectors.slurm.connections import Address

SSH: Mapping[str, Any] = {"host": "login.example", "username": "ann", "client_keys": ["~/.ssh/a", "/k/b"]}


def task(**custom: Any) -> TaskRequest:
    return connector_task(task_template("slurm", custom={"ssh_config": SSH, **custom}))


def function(*args: str, env: Mapping[str, str] | None = None, **custom: Any) -> TaskRequest:
    template = task_template("slurm_fn", image="unused", args=args, env=env, custom={"ssh_config": SSH, **custom})
    return connector_task(template)


def with_interface(request: TaskRequest, inputs: Mapping[str, str], **outputs: types_pb2.LiteralType) -> TaskRequest:
    declared = request.template.interface.outputs
    for name, kind in outputs.items():
        declared.variables.append(interface_pb2.VariableEntry(key=name, value=interface_pb2.Variable(type=kind)))
    for name, value in inputs.items():
        primitive = literals_pb2.Primitive(string_value=value)
        literal = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive))
        request.literals.literals.add(name=name, value=literal)
    return request


FILE = types_pb2.LiteralType(blob=types_pb2.BlobType(format="csv"))
FOLDER = types_pb2.LiteralType(blob=types_pb2.BlobType(dimensionality=types_pb2.BlobType.MULTIPART))
TEXT = types_pb2.LiteralType(simple=types_pb2.STRING)
NUMBER = types_pb2.LiteralType(simple=types_pb2.INTEGER)


def test_script_of_the_cluster_goes_with_its_arguments() -> None:
    job = payloads.submission(task(batch_script_path="/jobs/train.slurm", batch_script_args=["a b", 3]))
    assert (job.script_path, job.script, job.arguments) == ("/jobs/train.slurm", "", ["a b", "3"])
    assert job.address == Address("login.example", 0, "ann", ("~/.ssh/a", "/k/b"))


def test_address_takes_what_the_sdk_lets_users_write() -> None:
    ssh = {"host": "h", "port": 2222.0, "client_keys": "~/k", "known_hosts": None, "keepalive_interval": 3}
    job = payloads.submission(task(script="x", ssh_config=ssh))
    assert job.address == Address("h", 2222, "", ("~/k",))


def test_options_are_single_words_in_one_order() -> None:
    config = {
        "partition": "gpu",
        "cpus-per-task": 4,
        "exclusive": True,
        "requeue": "",
        "hold": False,
        "mem_per_cpu": 1.5,
    }
    job = payloads.submission(task(script="x", sbatch_config=config))
    assert job.options == ["--cpus-per-task=4", "--exclusive", "--mem-per-cpu=1.5", "--partition=gpu", "--requeue"]


def test_name_and_comment_of_the_user_are_kept_apart() -> None:
    job = payloads.submission(task(script="x", sbatch_config={"job-name": "train it", "comment": "by me"}))
    assert (job.job_name, job.comment, job.options) == ("train it", "by me", [])


@pytest.mark.parametrize(
    ("script", "runnable"),
    [
        ("#!/bin/sh\necho\n", "#!/bin/sh\necho\n"),
        ("\n\n    #!/bin/sh\n    #SBATCH --mem=1\n    echo\n", "#!/bin/sh\n#SBATCH --mem=1\necho\n"),
        ("echo hi", "#!/bin/bash\necho hi"),
        ("#!/bin/sh\r\necho\r\n", "#!/bin/sh\necho\n"),
    ],
)
def test_script_is_made_what_sbatch_takes(script: str, runnable: str) -> None:
    assert payloads.submission(task(script=script)).script == runnable


def test_function_runs_where_its_script_says() -> None:
    script = "#!/bin/bash\nsource env\n{task.fn}\necho done"
    job = payloads.submission(function("pyflyte-execute", "--x", "a 'b'; $c", env={"A": "1 2"}, script=script))
    lines = job.script.splitlines()
    assert lines[2] == """env FLYTE_FAIL_ON_ERROR=true 'A=1 2' pyflyte-execute --x 'a '"'"'b'"'"'; $c'"""
    assert lines[3] == "echo done"


@pytest.mark.parametrize("custom", [{}, {"script": None}])
def test_function_without_a_script_runs_in_an_interactive_shell(custom: Mapping[str, Any]) -> None:
    assert payloads.submission(function("run", "it", **custom)).script == (
        "#!/bin/bash -i\nenv FLYTE_FAIL_ON_ERROR=true run it\n"
    )


def test_outputs_are_what_the_job_leaves() -> None:
    locations = [
        {"var": "table", "var_type": "FlyteFile", "location": "/scratch/{inputs.name}.csv"},
        {"var": "all", "var_type": "FlyteDirectory", "location": "/scratch"},
        {"var": "path", "var_type": "str", "location": "/scratch/x"},
    ]
    request = task(script="cp a {outputs.table}", output_locs=locations, python_input_types={"name": "str"})
    job = payloads.submission(with_interface(request, {"name": "june"}, table=FILE, all=FOLDER, path=TEXT))
    assert job.outputs == {
        "table": Blob("/scratch/june.csv", "csv"),
        "all": Blob("/scratch", "", is_multipart=True),
        "path": "/scratch/x",
    }
    assert job.script.endswith("cp a /scratch/june.csv")


def test_inputs_fill_scripts_and_arguments_only_by_name() -> None:
    request = task(script="echo {inputs.name} ${HOME} {x} {{y}}", batch_script_args=["{inputs.name}"])
    job = payloads.submission(with_interface(request, {"name": "june"}))
    assert job.script.endswith("echo june ${HOME} {x} {{y}}")
    assert job.arguments == ["june"]


@pytest.mark.parametrize("value", ["$(rm -rf /)", "a; b", "it's", "a\nb", "`x`", 'say "x"', "a|b", "a\\b"])
def test_input_that_a_shell_would_obey_goes_into_arguments_only(value: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"\{inputs.name\}.*batch_script_args") as refused:
        payloads.submission(with_interface(task(script="echo {inputs.name}"), {"name": value}))
    assert value not in str(refused.value)
    request = task(script='echo "$1"', batch_script_args=["{inputs.name}"])
    assert payloads.submission(with_interface(request, {"name": value})).arguments == [value]


@pytest.mark.parametrize(
    ("custom", "told"),
    [
        ({}, "batch_script_path.*or script"),
        ({"script": "x", "batch_script_path": "/y"}, "both"),
        ({"script": "  "}, "script must be"),
        ({"script": 3}, r"\$.script"),
        ({"batch_script_path": "--wrap=x"}, "batch_script_path"),
        ({"script": "x", "ssh_config": {}}, "host"),
        ({"script": "x", "ssh_config": {"host": "-oProxyCommand=x"}}, "ssh_config.host"),
        ({"script": "x", "ssh_config": {"host": "a b"}}, "ssh_config.host"),
        ({"script": "x", "ssh_config": {"host": "h", "port": "ssh"}}, "ssh_config.port"),
        ({"script": "x", "ssh_config": {"host": "h", "port": 99999}}, "ssh_config.port"),
        ({"script": "x", "ssh_config": {"host": "h", "username": "a;b"}}, "ssh_config.username"),
        ({"script": "x", "sbatch_config": {"p": "x", "Mem": "1"}}, "sbatch_config.Mem"),
        ({"script": "x", "sbatch_config": {"mem;x": "1"}}, "sbatch_config.mem;x"),
        ({"script": "x", "sbatch_config": {"mem": "1\n2"}}, "sbatch_config.mem"),
        ({"script": "x", "sbatch_config": {"exclude": ["a"]}}, "sbatch_config"),
        ({"script": "x", "sbatch_config": {"array": "1-3"}}, "array.*map task"),
        ({"script": "x", "sbatch_config": {"wrap": "rm"}}, "wrap"),
        ({"script": "x", "sbatch_config": {"wait": True}}, "wait"),
        ({"script": "x", "sbatch_config": {"clusters": "a"}}, "ssh_config.host"),
        ({"script": "x", "sbatch_config": {"job-name": "a,b"}}, "job-name"),
        ({"script": "echo {inputs.nobody}"}, "inputs.nobody"),
        ({"script": "x", "output_locs": [{"var": "o", "location": "/x"}]}, "output_locs.o"),
    ],
)
def test_what_can_not_work_is_refused_by_its_field(custom: Mapping[str, Any], told: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=told):
        payloads.submission(task(**custom))


def test_output_without_a_place_is_refused() -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"output_locs.*o1"):
        payloads.submission(with_interface(task(script="x"), {}, o1=FILE))


def test_output_that_is_no_path_is_refused() -> None:
    request = task(script="x", output_locs=[{"var": "n", "location": "/n"}])
    with pytest.raises(BadTaskSpecificationError, match="output n"):
        payloads.submission(with_interface(request, {}, n=NUMBER))


@pytest.mark.parametrize("script", ["#!/bin/bash\necho", "task.fn"])
def test_function_that_would_never_run_is_refused(script: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"\{task.fn\}"):
        payloads.submission(function("run", script=script))


def test_function_without_a_command_is_refused() -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"container\.args"):
        payloads.submission(connector_task(task_template("slurm_fn", custom={"ssh_config": SSH})))
