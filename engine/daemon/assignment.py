"""Which replica is to have which shard: a pure function of who is there and who has what."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def assign(shards: int, members: Collection[str], holders: Mapping[int, str]) -> Mapping[int, str]:
    """Spreads all shards evenly, and moves as few of them as that takes.

    Every replica computes it by itself; those that see the same come to the same.

    Args:
        members: Replicas that take part.
        holders: Who has a shard now; others than ``members`` do not count.

    Returns:
        The member that each shard is for; nothing when there are none. No two members have numbers of
        shards that differ by more than one.
    """
    held: dict[str, list[int]] = {member: [] for member in members}
    for shard in range(shards):
        holder = holders.get(shard)
        if holder in held:
            held[holder].append(shard)
    if not held:
        return {}
    share, larger = divmod(shards, len(held))
    # Who has most keeps most, so that the larger shares go where they need not be moved to.
    order = sorted(held, key=lambda member: (-len(held[member]), member))
    room = {member: share + (rank < larger) for rank, member in enumerate(order)}
    target = {shard: member for member in order for shard in held[member][: room[member]]}
    for member in target.values():
        room[member] -= 1
    seats = (member for member in order for _ in range(room[member]))
    for shard in range(shards):
        if shard not in target:
            target[shard] = next(seats)
    return target
