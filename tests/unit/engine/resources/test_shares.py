"""Tokens under caps: never more than there are, none lost, fair, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from propfan.engine.resources.config import DomainQuota, ProjectQuota, QueueQuota, QuotasSection
from propfan.engine.resources.shares import MOST_OVERTAKEN, Demand, Shares

GPU = QuotasSection(queues={"gpu": QueueQuota(max_running=2)})


def asked(shares: Shares, token: str, demand: Demand, granted: list[str] | None = None) -> bool:
    return shares.ask(token, demand, lambda: (granted if granted is not None else []).append(token))


def one_of(project: str = "p", domain: str = "d", queue: str = "gpu") -> Demand:
    return Demand(project, domain, queue)


def test_who_comes_when_all_is_in_use_waits_and_is_called_when_its_turn_comes() -> None:
    shares, granted = Shares(GPU), list[str]()
    assert asked(shares, "a", one_of(), granted)
    assert asked(shares, "b", one_of(), granted)
    assert not asked(shares, "c", one_of(), granted)
    assert not asked(shares, "d", one_of(), granted)
    assert shares.why("c") == "queue gpu: 2 of 2 in use, place 1 of 2 in line"
    assert shares.why("d") == "queue gpu: 2 of 2 in use, place 2 of 2 in line"
    shares.give_back("a")
    assert granted == ["c"]
    assert shares.holds("c")
    shares.give_back("a")
    assert granted == ["c"]


def test_who_gives_up_frees_its_place_and_nothing_else() -> None:
    shares, granted = Shares(GPU), list[str]()
    for token in "abcd":
        asked(shares, token, one_of(), granted)
    shares.give_back("c")
    assert granted == []
    assert shares.why("d") == "queue gpu: 2 of 2 in use, place 1 of 1 in line"


def test_other_queues_are_not_held_up() -> None:
    shares = Shares(GPU)
    for token in "abc":
        asked(shares, token, one_of())
    assert asked(shares, "d", one_of(queue="cpu"))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (QuotasSection(max_running=1), "all queues: 1 of 1 in use"),
        (QuotasSection(projects={"p": ProjectQuota(max_running=1)}), "project p: 1 of 1 in use"),
        (QuotasSection(domains={"d": DomainQuota(max_running=1)}), "domain d: 1 of 1 in use"),
    ],
)
def test_every_cap_is_told_by_its_name(config: QuotasSection, text: str) -> None:
    shares = Shares(config)
    assert asked(shares, "a", one_of())
    assert not asked(shares, "b", one_of())
    assert shares.why("b").startswith(text)


def test_what_runs_already_is_counted_beyond_the_cap() -> None:
    shares, granted = Shares(GPU), list[str]()
    for token in "abc":
        shares.hold(token, one_of())
    assert not asked(shares, "d", one_of(), granted)
    shares.give_back("a")
    assert granted == []
    shares.give_back("b")
    assert granted == ["d"]


def test_nobody_begins_while_it_is_not_known_who_runs() -> None:
    shares, granted = Shares(GPU), list[str]()
    shares.pause()
    assert not asked(shares, "a", one_of(), granted)
    shares.hold("b", one_of())
    shares.hold("c", one_of())
    shares.resume()
    assert granted == []
    shares.give_back("b")
    assert granted == ["a"]


def share_of(weights: dict[str, float], size: int, rounds: int = 600) -> Counter[str]:
    """How often each project got a token, where all of them always want more and each task takes as long."""
    shares = Shares(
        QuotasSection(max_running=size, projects={name: ProjectQuota(weight=w) for name, w in weights.items()})
    )
    running: list[str] = []
    got: Counter[str] = Counter()

    def starts(token: str) -> None:
        running.append(token)
        got[token.partition("/")[0]] += 1

    for number in range(rounds):
        for name in weights:
            token = f"{name}/{number}"
            if shares.ask(token, Demand(name), lambda token=token: starts(token)):  # type: ignore[misc]
                starts(token)
    for _ in range(rounds):
        shares.give_back(running.pop(0))
    return got


@pytest.mark.parametrize("size", [1, 3, 30])
def test_projects_share_by_weight_however_much_one_of_them_wants(size: int) -> None:
    got = share_of({"a": 1.0, "b": 2.0}, size)
    assert got["b"] / got["a"] == pytest.approx(2.0, rel=0.1)
    even = share_of({"a": 1.0, "b": 1.0}, size)
    assert even["a"] == pytest.approx(even["b"], abs=2)


def test_newcomer_does_not_wait_for_a_project_with_a_thousand_in_line() -> None:
    shares, granted = Shares(QuotasSection(max_running=2)), list[str]()
    for number in range(1000):
        asked(shares, f"many{number}", Demand("many"), granted)
    asked(shares, "few", Demand("few"), granted)
    shares.give_back("many0")
    assert granted == ["few"]


def test_one_that_needs_two_scarce_things_at_once_is_not_passed_over_for_ever() -> None:
    """The queue and the domain are never free at the same moment, unless room is kept."""
    config = QuotasSection(queues={"gpu": QueueQuota(max_running=1)}, domains={"d": DomainQuota(max_running=1)})
    shares, granted = Shares(config), list[str]()
    gpu, domain = Demand("p", "other", "gpu"), Demand("p", "d", "cpu")
    asked(shares, "gpu0", gpu)
    asked(shares, "domain0", domain)
    asked(shares, "both", Demand("p", "d", "gpu"), granted)
    for number in range(MOST_OVERTAKEN + 2):
        asked(shares, f"gpu{number + 1}", gpu, granted)
        asked(shares, f"domain{number + 1}", domain, granted)
    running = ["gpu0", "domain0"]
    while "both" not in granted:
        known = len(granted)
        shares.give_back(running.pop(0))
        running += granted[known:]
    assert len(granted) <= MOST_OVERTAKEN + 4


class AnyOrder(RuleBasedStateMachine):
    """Whatever is asked for and given back in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.caps = {"all queues": 5, "queue": 3, "project": 2}
        self.shares = Shares(
            QuotasSection(
                max_running=5,
                queues={"gpu": QueueQuota(max_running=3)},
                projects={"p0": ProjectQuota(max_running=2), "p1": ProjectQuota(weight=3)},
            )
        )
        self.wanted: dict[str, Demand] = {}
        self.called: Counter[str] = Counter()

    @rule(number=st.integers(0, 20), project=st.sampled_from(["p0", "p1", "p2"]), queue=st.sampled_from(["gpu", "cpu"]))
    def ask(self, number: int, project: str, queue: str) -> None:
        token = str(number)
        demand = self.wanted.setdefault(token, Demand(project, "d", queue))
        self.shares.ask(token, demand, lambda: self.called.update([token]))

    @rule(number=st.integers(0, 20))
    def give_back(self, number: int) -> None:
        self.shares.give_back(str(number))
        self.wanted.pop(str(number), None)
        self.called.pop(str(number), None)

    @rule()
    def list_anew(self) -> None:
        self.shares.pause()
        self.shares.resume()

    @invariant()
    def caps_hold(self) -> None:
        held = [demand for token, demand in self.wanted.items() if self.shares.holds(token)]
        assert len(held) == self.shares.used("all queues") <= 5
        assert sum(demand.queue == "gpu" for demand in held) == self.shares.used("queue", "gpu") <= 3
        assert sum(demand.project == "p0" for demand in held) == self.shares.used("project", "p0") <= 2

    @invariant()
    def nobody_waits_without_need(self) -> None:
        waiting = [token for token in self.wanted if not self.shares.holds(token)]
        assert len(waiting) == self.shares.waiting
        assert all("in use" in self.shares.why(token) for token in waiting)

    @invariant()
    def nobody_is_called_twice(self) -> None:
        assert all(count == 1 and self.shares.holds(token) for token, count in self.called.items())


TestAnyOrder = AnyOrder.TestCase


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=60))
def test_without_caps_nobody_waits(projects: list[str]) -> None:
    shares = Shares(QuotasSection())
    assert all(asked(shares, str(number), Demand(project)) for number, project in enumerate(projects))
