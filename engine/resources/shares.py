"""Who may run: tokens under caps, shared fairly between projects. No I/O, no clock.

A *pool* is what one cap bounds: everything, a queue, a project, a domain. A task needs a token of each of its pools.
What becomes free goes to the project that has the least for its weight; where that is equal, to the one that got
the least so far; within a project to who came first. Nobody is passed over for ever: for one who was, often enough,
room is kept.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from propfan.engine.resources.config import ProjectQuota, QuotasSection

MOST_OVERTAKEN: Final = 64
"""So many who came later may go before one that does not fit."""


class Demand(NamedTuple):
    """What decides which pools a task needs."""

    project: str = ""
    domain: str = ""
    queue: str = ""


class Pool(NamedTuple):
    """``name`` is empty for the one over everything."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else self.kind


class _Waiting:
    __slots__ = ("demand", "number", "on_granted", "overtaken", "token")

    def __init__(self, number: int, token: str, demand: Demand, on_granted: Callable[[], None]) -> None:
        self.number: Final = number
        self.token: Final = token
        self.demand: Final = demand
        self.on_granted: Final = on_granted
        self.overtaken = 0


class Shares:
    """All pools of one engine.

    Attributes:
        is_paused: Nobody is granted anything: not all are known that hold tokens.
    """

    def __init__(self, config: QuotasSection) -> None:
        self._config: Final = config
        self._caps: Final = _caps(config)
        self._held: Final[dict[str, Demand]] = {}
        self._used: Final[Counter[Pool]] = Counter()
        self._projects: Final[Counter[str]] = Counter()
        self._got: Final[dict[str, float]] = {}
        self._lines: Final[dict[Demand, OrderedDict[str, _Waiting]]] = {}
        self._demands: Final[dict[str, Demand]] = {}
        """Of those who wait."""
        self._last_number = 0
        self.is_paused = False

    def holds(self, token: str) -> bool:
        return token in self._held

    def used(self, kind: str, name: str = "") -> int:
        """Tokens that are held of a pool with a cap."""
        return self._used[Pool(kind, name)]

    @property
    def waiting(self) -> int:
        return len(self._demands)

    def ask(self, token: str, demand: Demand, on_granted: Callable[[], None]) -> bool:
        """Whether the token is held now. Otherwise it waits, and ``on_granted`` is called once it is.

        Asking again changes nothing.
        """
        if token in self._held:
            return True
        if token not in self._demands:
            self._last_number += 1
            one = _Waiting(self._last_number, token, demand, on_granted)
            self._lines.setdefault(demand, OrderedDict())[token] = one
            self._demands[token] = demand
            self._join(demand.project)
            self._grant(but_tell=token)
        return token in self._held

    def hold(self, token: str, demand: Demand) -> None:
        """Takes a token without asking: its task runs already."""
        self._leave_line(token)
        if token not in self._held:
            self._take(token, demand)

    def give_back(self, token: str) -> None:
        """Frees a token, or stops waiting for it. Whose turn it is then gets it at once."""
        self._leave_line(token)
        demand = self._held.pop(token, None)
        if demand is None:
            return
        for pool in self._pools(demand):
            self._used[pool] -= 1
        self._projects[demand.project] -= 1
        self._grant()

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        self._grant()

    def why(self, token: str) -> str:
        """What one who waits waits for, for people."""
        demand = self._demands.get(token)
        if demand is None:
            return ""
        if self.is_paused:
            return "quotas: the tasks that run are being counted"
        full = self._full(demand, Counter())
        if full is None:
            return "quotas: its turn comes next"
        ahead, behind = self._around(token, full)
        in_use = f"{full}: {self._used[full]} of {self._caps[full]} in use"
        return f"{in_use}, place {ahead + 1} of {ahead + behind + 1} in line"

    # -- Pools -------------------------------------------------------------------------------------

    def _pools(self, demand: Demand) -> Sequence[Pool]:
        """Those that are bounded."""
        all_of_them = (
            Pool("all queues", ""),
            Pool("queue", demand.queue),
            Pool("project", demand.project),
            Pool("domain", demand.domain),
        )
        return [pool for pool in all_of_them if pool in self._caps]

    def _full(self, demand: Demand, kept: Counter[Pool]) -> Pool | None:
        for pool in self._pools(demand):
            if self._used[pool] + kept[pool] >= self._caps[pool]:
                return pool
        return None

    def _take(self, token: str, demand: Demand) -> None:
        self._held[token] = demand
        for pool in self._pools(demand):
            self._used[pool] += 1
        self._projects[demand.project] += 1

    # -- The line ----------------------------------------------------------------------------------

    def _leave_line(self, token: str) -> None:
        demand = self._demands.pop(token, None)
        if demand is None:
            return
        line = self._lines[demand]
        del line[token]
        if not line:
            del self._lines[demand]

    def _join(self, project: str) -> None:
        """A project that was away gets no arrears."""
        others = {each.project for each in self._lines if each.project != project}
        floor = min((self._got[name] for name in others), default=0.0)
        self._got[project] = max(self._got.get(project, 0.0), floor)

    def _grant(self, but_tell: str = "") -> None:
        """Everything that can be. Who asks just now is not called back."""
        while not self.is_paused and self._lines:
            chosen = self._next()
            if chosen is None:
                return
            self._leave_line(chosen.token)
            self._take(chosen.token, chosen.demand)
            project = chosen.demand.project
            self._got[project] = self._got.get(project, 0.0) + 1 / self._weight(project)
            for line in self._lines.values():
                first = next(iter(line.values()))
                if first.number < chosen.number:
                    first.overtaken += 1
            if chosen.token != but_tell:
                chosen.on_granted()

    def _next(self) -> _Waiting | None:
        """Whose turn it is among those that fit."""
        heads = [next(iter(line.values())) for line in self._lines.values()]
        kept: Counter[Pool] = Counter()
        patient = [one for one in heads if one.overtaken >= MOST_OVERTAKEN]
        for one in sorted(patient, key=_number):
            if self._full(one.demand, kept) is None:
                return one
            kept.update(self._pools(one.demand))
        fitting = [one for one in heads if self._full(one.demand, kept) is None]
        return min(fitting, key=self._rank, default=None)

    def _rank(self, one: _Waiting) -> tuple[float, float, int]:
        project = one.demand.project
        return self._projects[project] / self._weight(project), self._got.get(project, 0.0), one.number

    def _weight(self, project: str) -> float:
        return self._config.projects.get(project, _PLAIN).weight

    def _around(self, token: str, pool: Pool) -> tuple[int, int]:
        """How many came before and after it who want the same."""
        own = self._lines[self._demands[token]][token].number
        lines = [line for demand, line in self._lines.items() if pool in self._pools(demand)]
        everybody = sum(map(len, lines))
        if own == self._last_number:
            return everybody - 1, 0
        ahead = sum(one.number < own for line in lines for one in line.values())
        return ahead, everybody - ahead - 1


_PLAIN: Final = ProjectQuota()


def _number(one: _Waiting) -> int:
    return one.number


def _caps(config: QuotasSection) -> Mapping[Pool, int]:
    named = {
        Pool("all queues", ""): config.max_running,
        **{Pool("queue", name): quota.max_running for name, quota in config.queues.items()},
        **{Pool("project", name): quota.max_running for name, quota in config.projects.items()},
        **{Pool("domain", name): quota.max_running for name, quota in config.domains.items()},
    }
    return {pool: cap for pool, cap in named.items() if cap is not None}
