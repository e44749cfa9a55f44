"""What gossip is about: the topics of a network, and one peer's subscriptions to the adverts of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cactus_mesh.ports import GossipVerdict, Network

MAX_MODEL_TOPICS: Final = 256


def adverts_topic(network: str, model: str) -> str:
    return f"/cactus/1/{network}/adverts/{model}"


def outcomes_topic(network: str) -> str:
    return f"/cactus/1/{network}/outcomes"


class Topics:
    """Subscriptions to the adverts of every model that a staked orchestrator offers."""

    def __init__(self, network: Network, name: str, hear: Callable[[bytes, str], GossipVerdict]) -> None:
        self._network = network
        self._name = name
        self._hear = hear
        self._joined: set[str] = set()
        self._wanted, self._to_join = trio.open_memory_channel[str](MAX_MODEL_TOPICS)

    def join(self, models: Iterable[str]) -> None:
        for model in models:
            if model not in self._joined and len(self._joined) < MAX_MODEL_TOPICS:
                self._joined.add(model)
                self._wanted.send_nowait(model)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            async for model in self._to_join:
                nursery.start_soon(self._follow, adverts_topic(self._name, model))

    async def _follow(self, topic: str) -> None:
        # the validator has taken each advert in already; the channel is read so that it does not fill
        async with self._network.subscribe(topic, lambda data: self._hear(data, topic)) as adverts:
            async for _ in adverts:
                pass
