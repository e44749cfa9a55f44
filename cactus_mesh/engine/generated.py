"""The events of one generation, as the worker's frames bring them, for one reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from cactus_mesh.engine.frames import Admitted, Failed, Finished, Replayed, Reread, Token
from cactus_mesh.errors import from_wire
from cactus_mesh.ports import EngineFinish, EngineTokens, Replay, Rereading

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from cactus_mesh.engine.frames import OfGeneration
    from cactus_mesh.ports import EngineEvent


class Events:
    """The events of one generation, for one reader."""

    def __init__(self, receiver: trio.MemoryReceiveChannel[OfGeneration], stop: Callable[[], None]) -> None:
        self._receiver = receiver
        self.stop = stop
        self._over = False

    async def admitted(self) -> None:
        first = await self._receiver.receive()
        if isinstance(first, Failed):
            raise from_wire(first.code, first.message)
        assert isinstance(first, Admitted)

    async def replayed(self) -> Replay:
        event = await self._receiver.receive()
        self._over = True
        if isinstance(event, Failed):
            raise from_wire(event.code, event.message)
        assert isinstance(event, Replayed)
        return Replay(tuple(event.logprobs), tuple(event.gaps), event.text, event.finish, event.prompt_tokens)

    async def reread(self) -> Rereading:
        event = await self._receiver.receive()
        self._over = True
        if isinstance(event, Failed):
            raise from_wire(event.code, event.message)
        assert isinstance(event, Reread)
        return Rereading(tuple(map(tuple, event.rows)), tuple(event.labels), event.prompt_tokens)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> EngineEvent:
        if self._over:
            raise StopAsyncIteration
        event = await self._receiver.receive()
        self._over = not isinstance(event, Token)
        match event:
            case Token():
                likelihoods = () if event.likelihood is None else (event.likelihood,)
                return EngineTokens((event.token_id,), (event.logprob,), event.text, likelihoods)
            case Finished():
                return EngineFinish(event.finish, event.prompt_tokens, event.compute_ms)
            case Failed():
                raise from_wire(event.code, event.message)
            case Admitted() | Replayed() | Reread():
                raise AssertionError("a generation is admitted once, and is no replay")
            case _:
                assert_never(event)
