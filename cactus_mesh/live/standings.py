"""How reliable the known orchestrators have been found, over time; their number and their past are bounded.

A peer with a directory tells what that has heard.  One without, a mere client, goes by its own tasks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.heard import GONE, OK
from cactus_mesh.identity import peer_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cactus_mesh.directory import Directory
    from cactus_mesh.live.tasks import TaskTable

STANDINGS_SECONDS: Final = 10
POINTS: Final = 360
"""An hour."""
ORCHESTRATORS: Final = 32
"""Those with the most stake; a plot of more cannot be read."""
MODELS_TOLD: Final = 4
_PRIOR_GOOD: Final = 9.0
_PRIOR: Final = 10.0
"""As `core.reputation` takes a stranger to be."""


@dataclass(slots=True)
class _Seen:
    facts: dict[str, Any] = field(default_factory=dict)
    history: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=POINTS))


class Standings:
    def __init__(self, directory: Directory | None, tasks: TaskTable) -> None:
        self._directory = directory
        self._tasks = tasks
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def sample(self, now: float) -> None:
        for peer, success, facts in self._found():
            seen = self._seen.setdefault(peer, _Seen())
            seen.facts = facts
            seen.history.append((round(now), round(success, 4)))
            self._seen.move_to_end(peer)
        while len(self._seen) > ORCHESTRATORS:
            self._seen.popitem(last=False)

    def told(self) -> list[dict[str, Any]]:
        return [
            {"peer_id": peer, **seen.facts, "success": seen.history[-1][1], "history": list(seen.history)}
            for peer, seen in reversed(self._seen.items())
        ]

    def _found(self) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """The best known last."""
        if self._directory is not None and len(self._directory.book):
            yield from self._heard(self._directory)
        else:
            yield from self._own()

    def _heard(self, directory: Directory) -> Iterator[tuple[str, float, dict[str, Any]]]:
        for advert, view, standing in reversed(directory.most_staked(ORCHESTRATORS)):
            facts = {
                "models": [offer.name for offer in advert.body.models[:MODELS_TOLD]],
                "stake_octas": view.stake,
                "frozen": view.frozen,
                "slots": advert.body.slots,
                "busy": advert.body.busy,
                "first_token_ms": None if standing.first_token_ms is None else round(standing.first_token_ms, 1),
                "completed": view.completed,
                "failed": view.failed + view.timed_out,
            }
            yield peer_id(advert.sender), standing.success, facts

    def _own(self) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """By this process's own last tasks."""
        done: dict[str, list[int]] = {}
        for task in self._tasks.done:
            if task.part == "client" and task.orchestrator and task.outcome != GONE:
                done.setdefault(task.orchestrator, [0, 0])[task.outcome != OK] += 1
        for peer, (good, bad) in done.items():
            facts: dict[str, Any] = {"models": [], "stake_octas": None, "completed": good, "failed": bad}
            yield peer, (good + _PRIOR_GOOD) / (good + bad + _PRIOR), facts
