from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.web.quotas import Claim, Pool, Quotas, TaskResources
from propfan.pluginmachinery.contexts import AllocationStatus, ResourceConstraints

GRANTED, EXHAUSTED = AllocationStatus.GRANTED, AllocationStatus.EXHAUSTED
EXCEEDED = AllocationStatus.NAMESPACE_QUOTA_EXCEEDED

pytestmark = pytest.mark.anyio


def nothing() -> None:
    return


def claim(project: str = "p", namespace: str = "n", **caps: int) -> Claim:
    return Claim(project, namespace, ResourceConstraints(**caps))


def test_asking_again_changes_nothing() -> None:
    pool = Pool("default", 1)
    assert [pool.ask("a", claim(), nothing) for _ in range(3)] == [GRANTED] * 3
    assert [pool.ask("b", claim(), nothing) for _ in range(3)] == [EXHAUSTED] * 3
    assert (pool.held, pool.waiting) == (1, 1)


def test_free_token_goes_to_who_waited_longest() -> None:
    pool, called = Pool("default", 1), list[str]()
    pool.ask("a", claim(), nothing)
    for token in ("b", "c"):
        pool.ask(token, claim(), lambda token=token: called.append(token))  # type: ignore[misc]
    pool.give_back("a")
    assert called == ["b"]
    assert pool.ask("d", claim(), nothing) is EXHAUSTED
    assert pool.ask("b", claim(), nothing) is GRANTED


def test_who_gives_up_waiting_is_passed_over() -> None:
    pool, called = Pool("default", 1), list[str]()
    pool.ask("a", claim(), nothing)
    for token in ("b", "c"):
        pool.ask(token, claim(), lambda token=token: called.append(token))  # type: ignore[misc]
    pool.give_back("b")
    pool.give_back("a")
    assert called == ["c"]


def test_caps_of_project_and_namespace_hold_beside_the_size() -> None:
    pool = Pool("default", 10)
    assert pool.ask("a", claim("p", "n", project_scope=2, namespace_scope=1), nothing) is GRANTED
    assert pool.ask("b", claim("p", "n", project_scope=2, namespace_scope=1), nothing) is EXCEEDED
    assert pool.ask("c", claim("p", "m", project_scope=2, namespace_scope=1), nothing) is GRANTED
    assert pool.ask("d", claim("p", "o", project_scope=2, namespace_scope=1), nothing) is EXCEEDED
    assert pool.ask("e", claim("q", "o", project_scope=2, namespace_scope=1), nothing) is GRANTED


def test_shortage_names_what_to_raise() -> None:
    pool = Pool("default", 1)
    pool.ask("a", claim(), nothing)
    assert pool.shortage(claim()) == "1 of the 1 tokens of quota 'default' are taken (resourceQuotas)"
    wide = Pool("default", 9)
    wide.ask("a", claim(project_scope=1), nothing)
    assert "project 'p' has all of its 1 tokens (ProjectScope" in wide.shortage(claim(project_scope=1))
    assert "namespace 'n' has all of its 1 tokens (NamespaceScope" in wide.shortage(claim(namespace_scope=1))


def test_token_from_before_a_restart_counts_even_beyond_the_size() -> None:
    pool = Pool("default", 1)
    pool.hold("a", claim())
    pool.hold("b", claim())
    assert pool.ask("c", claim(), nothing) is EXHAUSTED
    pool.give_back("a")
    assert pool.ask("c", claim(), nothing) is EXHAUSTED
    pool.give_back("b")
    assert pool.ask("c", claim(), nothing) is GRANTED


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["ask", "give back"]), st.sampled_from("abcdef"), st.sampled_from("pq"))),
)
def test_no_order_overshoots_and_nobody_who_fits_is_left_waiting(size: int, calls: list[tuple[str, str, str]]) -> None:
    pool, projects = Pool("default", size), dict[str, str]()
    for call, token, project in calls:
        if call == "ask":
            project = projects.setdefault(token, project)  # noqa: PLW2901 - a token has one claim
            pool.ask(token, claim(project, project_scope=2), nothing)
        else:
            pool.give_back(token)
            projects.pop(token, None)
        held = [projects[token] for token in pool._held]
        assert len(held) <= size
        assert all(held.count(each) <= 2 for each in "pq")
        for wanted, _ in pool._waiting.values():
            assert pool._fits(wanted) is not GRANTED


async def test_task_without_a_pool_gets_what_it_asks_for() -> None:
    quotas = Quotas()
    quotas.register("mine", {"default": 1})
    held = [
        await TaskResources(quotas, owner, project="p", task_namespace="n", on_granted=nothing).allocate(
            namespace, token, ResourceConstraints()
        )
        for owner, namespace, token in [
            ("mine", "default", "a"),
            ("mine", "default", "b"),
            ("mine", "other", "c"),
            ("others", "default", "d"),
        ]
    ]
    assert held == [GRANTED, EXHAUSTED, GRANTED, GRANTED]
