from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery import iopaths
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.taskaction import TaskAction, TaskActionSpec


def task_action(input_uri: str = "s3://b/in/inputs.pb", base: str = "s3://b/org/p/d/r4x/") -> TaskAction:
    spec = TaskActionSpec(run_name="r4x", action_name="a1", input_uri=input_uri, run_output_base=base)
    return TaskAction(ObjectMeta(name="r4x-a1", namespace="flyte"), spec)


def test_paths_of_a_second_attempt() -> None:
    paths = iopaths.attempt_paths(task_action(), 2)
    shard = iopaths.shard_of("flyte/r4x-a1")
    prefix = f"s3://b/{shard}/org/p/d/r4x/a1/2"
    assert (paths.output_prefix, paths.raw_output_prefix) == (prefix, prefix)
    assert (paths.output, paths.error) == (f"{prefix}/outputs.pb", f"{prefix}/error.pb")
    assert (paths.deck, paths.task_template) == (f"{prefix}/report.html", f"{prefix}/task.pb")
    assert paths.checkpoint_prefix == f"{prefix}/_flytecheckpoints"
    assert paths.previous_checkpoints_prefix == f"s3://b/{shard}/org/p/d/r4x/a1/1/_flytecheckpoints"


def test_a_first_attempt_has_no_earlier_checkpoint() -> None:
    assert iopaths.attempt_paths(task_action(), 1).previous_checkpoints_prefix == ""


def test_the_report_may_have_another_name() -> None:
    assert iopaths.attempt_paths(task_action(), 1, report_file="deck.html").deck.endswith("/a1/1/deck.html")


@pytest.mark.parametrize(
    ("input_uri", "prefix"),
    [
        ("s3://b/in/inputs.pb", "s3://b/in"),
        ("s3://b/in", "s3://b/in"),
        ("s3://b/in/", "s3://b/in"),
        ("s3://b/in.pb", "s3://b/in.pb"),
        ("s3://b/xinputs.pb", "s3://b/xinputs.pb"),
    ],
)
def test_inputs_are_named_by_their_file_or_its_folder(input_uri: str, prefix: str) -> None:
    paths = iopaths.attempt_paths(task_action(input_uri), 1)
    assert (paths.input_prefix, paths.input) == (prefix, f"{prefix}/inputs.pb")


@pytest.mark.parametrize(
    ("uri", "sharded"),
    [
        ("s3://b/x/y/", "s3://b/zz/x/y"),
        ("abfs://container@account/x", "abfs://container@account/zz/x"),
        ("s3://b", "s3://b/zz"),
        ("file:///home/me/runs", "file:///home/me/runs"),
        ("memory:///runs", "memory:///runs"),
        ("/home/me/runs", "/home/me/runs"),
    ],
)
def test_the_shard_is_the_first_folder_of_the_bucket(uri: str, sharded: str) -> None:
    assert iopaths.with_shard(uri, "zz") == sharded


@pytest.mark.parametrize(
    ("prefix", "keys", "joined"),
    [
        ("s3://b/x", ("/y/", "z"), "s3://b/x/y/z"),
        ("s3://b/x/", ("", "y"), "s3://b/x/y"),
        ("file:///", ("x",), "file:///x"),
        ("s3://b", ("/", ""), "s3://b"),
    ],
)
def test_keys_are_joined_by_single_slashes(prefix: str, keys: tuple[str, ...], joined: str) -> None:
    assert iopaths.join(prefix, *keys) == joined


def test_shards_count_in_letters_before_digits() -> None:
    # FNV-1a of "" is 15 * 36 + 25 modulo 1296, that of "9" is 9 * 36 + 32.
    assert iopaths.shard_of("") == "pz"
    assert iopaths.shard_of("9") == "j6"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_shard_is_two_characters(text: str) -> None:
    assert re.fullmatch("[a-z0-9]{2}", iopaths.shard_of(text))
