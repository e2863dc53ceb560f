"""How shards are spread over replicas."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.daemon.assignment import assign

names = st.text("abcdef", min_size=1, max_size=3)
teams = st.sets(names, max_size=8)
counts = st.integers(1, 40)


@st.composite
def situations(draw: st.DrawFn) -> tuple[int, set[str], dict[int, str]]:
    shards, members = draw(counts), draw(teams)
    others = st.sampled_from([*sorted(members), "gone", ""])
    return shards, members, draw(st.dictionaries(st.integers(0, shards - 1), others))


@given(situations())
def test_every_shard_is_for_one_member(situation: tuple[int, set[str], dict[int, str]]) -> None:
    shards, members, holders = situation
    target = assign(shards, members, holders)
    assert set(target) == (set(range(shards)) if members else set())
    assert set(target.values()) <= members


@given(situations())
def test_shares_differ_by_one_at_most(situation: tuple[int, set[str], dict[int, str]]) -> None:
    shards, members, holders = situation
    sizes = Counter(assign(shards, members, holders).values())
    if members:
        assert max(sizes.values()) - min(sizes[member] for member in members) <= 1


@given(situations())
def test_what_is_assigned_stays_assigned(situation: tuple[int, set[str], dict[int, str]]) -> None:
    shards, members, holders = situation
    target = assign(shards, members, holders)
    assert assign(shards, members, target) == target


@given(situations(), st.randoms())
def test_the_order_in_which_things_are_seen_does_not_matter(
    situation: tuple[int, set[str], dict[int, str]],
    random: object,
) -> None:
    shards, members, holders = situation
    shuffled = sorted(members, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert assign(shards, shuffled, dict(reversed(holders.items()))) == assign(shards, members, holders)


@given(counts, st.sets(names, min_size=1, max_size=8), names)
def test_only_what_the_newcomer_gets_is_moved(shards: int, members: set[str], newcomer: str) -> None:
    before = assign(shards, members - {newcomer} or {"first"}, {})
    after = assign(shards, {*before.values(), newcomer}, before)
    assert {after[shard] for shard in range(shards) if after[shard] != before[shard]} <= {newcomer}


@given(counts, st.sets(names, min_size=2, max_size=8))
def test_only_the_shards_of_the_lost_are_moved(shards: int, members: set[str]) -> None:
    before = assign(shards, members, {})
    lost = min(members)
    after = assign(shards, members - {lost}, before)
    moved = [shard for shard in range(shards) if after[shard] != before[shard]]
    assert moved == [shard for shard in range(shards) if before[shard] == lost]
