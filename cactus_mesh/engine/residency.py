"""Decides which models are in memory: what is loaded next, and what has to go for it.  Knows no tensors and no clocks.

Whoever waits for a model that is not there waits in one queue, first come, first loaded.  Room is made by unloading the
models that were used longest ago, idle ones first; where only busy ones are left, they are *drained*: what they have
begun comes to its end, what comes new waits in the queue.  What has just been loaded stays for a while, so that
requests for two models in turn do not spend their time with loading.  What nobody pays for, an audit, takes no room
from a model that is at work or lately was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

KEEP_FACTOR: Final = 2.0
"""A model stays for so many times as long as its loading took: at most a third of the time is spent with loading."""
LEAST_KEEP_SECONDS: Final = 1.0
LATELY_SECONDS: Final = 600.0
"""A model that was paid for since is not unloaded for an audit, which another verifier can make."""
FIRST_BENCH_SECONDS: Final = 10.0
LAST_BENCH_SECONDS: Final = 600.0

Model = bytes
"""A digest."""


@dataclass(frozen=True, slots=True)
class Load:
    model: Model


@dataclass(frozen=True, slots=True)
class Unload:
    """Nobody uses it."""

    model: Model


@dataclass(slots=True)
class _Present:
    keep_until: float
    used_at: float
    running: set[int] = field(default_factory=set)

    def may_go(self, now: float) -> bool:
        return self.keep_until <= now

    def used(self, now: float) -> bool:
        return bool(self.running) or now - self.used_at < LATELY_SECONDS


class Bench:
    """Models whose loading failed: not tried again for a while, ever longer while it goes on failing."""

    def __init__(self) -> None:
        self._failures: dict[Model, int] = {}
        self._until: dict[Model, float] = {}

    def failed(self, model: Model, now: float) -> None:
        count = self._failures[model] = self._failures.get(model, 0) + 1
        self._until[model] = now + min(LAST_BENCH_SECONDS, FIRST_BENCH_SECONDS * 2.0 ** min(count - 1, 16))

    def succeeded(self, model: Model) -> None:
        self._failures.pop(model, None)
        self._until.pop(model, None)

    def seconds_left(self, model: Model, now: float) -> float:
        return max(0.0, self._until.get(model, now) - now)


class Residency:
    """*needs* says how many bytes each model takes, *room* how many there are.  None needs more than that."""

    def __init__(self, needs: Mapping[Model, int], room: int) -> None:
        assert all(0 <= need <= room for need in needs.values())
        self._needs = dict(needs)
        self._room = room
        self._present: dict[Model, _Present] = {}
        self._loading: Model | None = None
        self._waiting: dict[int, Model] = {}
        """In the order of their coming."""
        self._draining: frozenset[Model] = frozenset()
        self._unpaid: set[int] = set()

    @property
    def present(self) -> tuple[Model, ...]:
        return tuple(self._present)

    @property
    def loading(self) -> Model | None:
        return self._loading

    @property
    def used(self) -> int:
        """Bytes, those of the model that is being loaded included."""
        there = [*self._present, *([self._loading] if self._loading is not None else [])]
        return sum(self._needs[model] for model in there)

    def first(self, avoid: Collection[Model] = ()) -> list[Model]:
        """What to load at the start: in the order of *needs*, whatever still fits."""
        chosen, left = [], self._room
        for model, need in self._needs.items():
            if need <= left and model not in avoid:
                chosen.append(model)
                left -= need
        return chosen

    # --- requests ----------------------------------------------------------------------------------------------------

    def ask(self, id_: int, model: Model, now: float, *, paid: bool = True) -> bool:
        """Whether request *id_* may begin at once; else it waits until `ready` names it or `failed` ends it."""
        if not paid:
            self._unpaid.add(id_)
        if model in self._present and model not in self._draining:
            self._begin(id_, model, now)
            return True
        self._waiting[id_] = model
        return False

    def disturbs(self, model: Model, now: float) -> bool:
        """Whether loading *model* would take room from one that is at work or lately was."""
        if model in self._present or model == self._loading or model in self._waiting.values():
            return False
        idle = [each for each, there in self._present.items() if there.may_go(now) and not there.used(now)]
        return self._needs[model] > self._room - self.used + sum(self._needs[each] for each in idle)

    def leave(self, id_: int, now: float) -> None:
        """A request is over, or is not wanted any more; unknown ones are fine."""
        self._waiting.pop(id_, None)
        for there in self._present.values():
            if id_ in there.running:
                there.running.discard(id_)
                if id_ not in self._unpaid:
                    there.used_at = now
        self._unpaid.discard(id_)

    def ready(self, now: float) -> list[int]:
        """Those that waited and may begin now."""
        found = [id_ for id_, model in self._waiting.items() if model in self._present and model not in self._draining]
        for id_ in found:
            self._begin(id_, self._waiting.pop(id_), now)
        return found

    def _begin(self, id_: int, model: Model, now: float) -> None:
        self._present[model].running.add(id_)
        if id_ not in self._unpaid:
            self._present[model].used_at = now

    # --- models ------------------------------------------------------------------------------------------------------

    def next(self, now: float) -> Load | Unload | None:
        """What to do now.  Tell `loaded`, `failed` or `unloaded` what came of it before asking again."""
        self._draining = frozenset()
        wanted = next((model for model in self._waiting.values() if model not in self._present), None)
        if wanted is None or self._loading is not None:
            return None
        if self._needs[wanted] <= self._room - self.used:
            self._loading = wanted
            return Load(wanted)
        victims = self._victims(self._needs[wanted] - (self._room - self.used), now)
        self._draining = frozenset(victims)
        return next((Unload(model) for model in victims if not self._present[model].running), None)

    def _victims(self, missing: int, now: float) -> list[Model]:
        """Which have to go so that *missing* bytes more are free; none when those that may go are not enough."""
        may_go = sorted(
            (model for model, there in self._present.items() if there.may_go(now)),
            key=lambda model: (bool(self._present[model].running), self._present[model].used_at),
        )
        chosen: list[Model] = []
        for model in may_go:
            if sum(self._needs[each] for each in chosen) < missing:
                chosen.append(model)
        if sum(self._needs[each] for each in chosen) < missing:
            return []
        for model in reversed(chosen[:]):  # a large one that came late may have made others needless
            if sum(self._needs[each] for each in chosen) - self._needs[model] >= missing:
                chosen.remove(model)
        return chosen

    def loaded(self, model: Model, now: float, seconds: float) -> None:
        """Loading it took *seconds*."""
        if self._loading == model:
            self._loading = None
        self._present[model] = _Present(now + max(LEAST_KEEP_SECONDS, KEEP_FACTOR * seconds), now)

    def failed(self, model: Model) -> list[int]:
        """Those that waited for it, and do so no more."""
        if self._loading == model:
            self._loading = None
        return list(self._forget(model))

    def unloaded(self, model: Model) -> None:
        assert not self._present[model].running
        del self._present[model]
        self._draining -= {model}

    def _forget(self, model: Model) -> Iterator[int]:
        for id_ in [id_ for id_, wanted in self._waiting.items() if wanted == model]:
            del self._waiting[id_]
            self._unpaid.discard(id_)
            yield id_
