"""A cluster in front of another changes nothing of its own accord."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from propfan.engine.cluster import Cluster
from propfan.engine.forwarding import ForwardingCluster

CALLS = [name for name in vars(Cluster) if inspect.isfunction(vars(Cluster)[name]) and not name.startswith("_")]


class Behind:
    """A cluster whose answers are the calls themselves."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(Cluster, name))

        def answer(*args: Any, **options: Any) -> Any:
            return name, dict(signature.bind(self, *args, **options).arguments)

        return answer


def test_all_calls_of_a_cluster_are_known() -> None:
    assert CALLS == ["get", "list", "watch", "create", "patch", "delete"]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_goes_on_as_it_came_and_so_does_the_answer(name: str) -> None:
    behind: Any = Behind()
    parameters = inspect.signature(getattr(Cluster, name)).parameters
    given = {parameter: object() for parameter in parameters if parameter != "self"}
    assert getattr(ForwardingCluster(behind), name)(**given) == (name, {"self": behind, **given})


@pytest.mark.parametrize("name", CALLS)
def test_what_is_left_out_of_a_call_is_what_a_cluster_takes_for_it(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(it, name)).parameters for it in (ForwardingCluster, Cluster))
    assert list(ours.values()) == list(theirs.values())
