"""Errors carry what they know as attributes, and survive pickle."""

from __future__ import annotations

import pickle

import pytest

from propfan.pluginmachinery import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("plugins.k8s", "wrong"),
        errors.PluginError("ray", "id", "is taken"),
        errors.TaskError("Code", "message"),
        errors.PermanentError("Code", "message"),
        errors.TransientError("Code", "message", 3.0),
        errors.BadTaskSpecificationError("message"),
        errors.DecodeError("pod a/b", "truncated"),
        errors.StorageError("s3://b/k", "down"),
        errors.ObjectNotFoundError("s3://b/k"),
        errors.ObjectTooLargeError("s3://b/k", 3, 2),
        errors.NotFoundError("Pod a/b", "gone"),
        errors.KindNotServedError("RayJob a/b", "no such kind"),
        errors.QuotaExceededError("Pod a/b", "exceeded quota"),
        errors.UnauthorizedError("Pod a/b", "who are you", 1.5),
        errors.ThrottledError("Pod a/b", "slow down", 2.5),
        errors.InvalidTransitionError("a/b", "ACTIVE", "Launched"),
        errors.PluginNotFoundError("ray"),
        errors.NameTooLongError("fabc"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickle(error: errors.PropfanError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_code_stands_before_its_message() -> None:
    assert str(errors.TaskError("Code", "message")) == "[Code] message"
    assert str(errors.TaskError("", "message")) == "message"


def test_the_first_code_in_the_chain_of_causes_counts() -> None:
    inner = errors.BadTaskSpecificationError("inner")
    outer = errors.TaskError("", "outer")
    outer.__cause__ = inner
    assert errors.code_of(outer) == errors.BAD_TASK_SPECIFICATION
    assert errors.code_of(ValueError("none")) == ""
