from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml

from propfan.engine.cli.app import cli
from tests.unit.engine.cli.command import lines_of, task_file
from tests.unit.engine.cli.conftest import Invoke


def test_plugins_are_listed_with_what_they_run(invoke: Invoke) -> None:
    result = invoke("plugins")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == ["PLUGIN", "CONTRACT", "TASK", "TYPES", "OBJECT", "FROM"]
    by_id = {plugin["id"]: plugin for plugin in lines_of(invoke("plugins", "--json").stdout)}
    assert "raw-container" in by_id["pod"]["task_types"]
    assert by_id["core-sleep"]["is_loaded"]


def test_printed_settings_are_a_file_that_says_the_same(invoke: Invoke, tmp_path: Path) -> None:
    first = invoke("check").stdout
    (tmp_path / "engine.yaml").write_text(first)
    second = invoke("check", "-c", tmp_path / "engine.yaml").stdout
    (tmp_path / "again.yaml").write_text(second)
    assert invoke("check", "-c", tmp_path / "again.yaml").stdout == second
    changed = {"default-cpus", "default-memory"}  # 1000m is 1
    for before, after in zip(first.splitlines(), second.splitlines(), strict=True):
        assert before == after or before.partition(":")[0].strip() in changed


def test_settings_of_a_file_are_understood_and_secrets_not_shown(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "engine.yaml").write_text(
        "# ours\ncapacity: {memory: 4Gi}\nstorage: {s3: {region: r, secret-access-key: hidden, session-token: hidden}}\n"
    )
    result = invoke("check", "-c", tmp_path / "engine.yaml")
    told = yaml.safe_load(result.stdout)
    assert (told["capacity"]["memory"], told["storage"]["s3"]["region"]) == ("4Gi", "r")
    assert "hidden" not in result.stdout
    assert result.exit_code == 0


def test_good_task_files_are_named_and_bad_ones_all_told(invoke: Invoke, tmp_path: Path) -> None:
    good = task_file(tmp_path, "true", name="good")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("id: {name: x}\ntype: fortran\n")
    broken = tmp_path / "broken.json"
    broken.write_text('{"id": {"name": "x"}, "kind": 1}')
    result = invoke("check", good, unknown, broken)
    assert result.exit_code == 2
    assert result.stdout == f"{good}: raw-container task good: good\n"
    first, second = result.stderr.splitlines()
    assert first.startswith(f"Error: {unknown}: type: no plugin runs 'fortran'; there are clustered-task, container, ")
    assert second.startswith(f"Error: {broken}: kind: no such field")


@pytest.mark.parametrize("name", ["", *cli.list_commands(click.Context(cli))])
def test_help_has_words_for_every_option_and_fits_a_terminal(invoke: Invoke, name: str) -> None:
    command = cli.get_command(click.Context(cli), name) if name else cli
    assert command is not None
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    result = invoke(*([name] if name else []), "--help")
    assert result.exit_code == 0
    assert "\\b" not in result.stdout
    below = command.commands.values() if isinstance(command, click.Group) and name else ()
    known = {o for c in (command, *below) for p in c.params for o in p.opts} | {"--help"}
    own = "".join(line for line in result.stdout.splitlines(keepends=True) if not line.strip().startswith("flyte "))
    for option in re.findall(r"--[a-z-]+", own):
        assert option in known, f"{option} is told of, and not there"


def test_a_command_that_is_not_there_is_refused(invoke: Invoke) -> None:
    result = invoke("start")
    assert result.exit_code == 2
    assert "No such command" in result.stderr
