"""An `Engine` that fronts another server over its OpenAI-compatible API: vLLM, SGLang, llama.cpp, Ollama, ...

The server's tokens are not known here, only the pieces of text in which it streams: each counts as a token, whose id is
made from its text.  So its answers cannot be replayed by others, which the dtype ``upstream`` says, nor continued.
"""

from __future__ import annotations

import hashlib
import logging
import math
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.engine.http import HttpFailed, Server, open_reply
from cactus_mesh.engine.requests import check_parameters, find_model
from cactus_mesh.engine.sse import Stream
from cactus_mesh.engine.upstream_answers import answer_to
from cactus_mesh.engine.upstream_requests import body_of, path_of
from cactus_mesh.errors import BadParameters, Busy, CannotContinue, ConfigMalformed, EngineFailed, ModelMissing
from cactus_mesh.messages import ModelShape, texts_of
from cactus_mesh.ports import EngineFinish, EngineModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from cactus_mesh.engine.http import Reply
    from cactus_mesh.engine.sse import Piece
    from cactus_mesh.engine.upstream_answers import Answer
    from cactus_mesh.messages import Sampling, Work
    from cactus_mesh.ports import EngineEvent, Replay, Rereading

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""To begin one generation.  Once it has begun it is not begun again: others would see its text twice."""
FIRST_RETRY_SECONDS: Final = 0.2
HEALTH_SECONDS: Final = 10.0
"""Between two looks at the server while nothing is wrong; a tenth of that otherwise."""
LOOK_SECONDS: Final = 10.0
"""For one look: whoever says nothing for so long while nothing is asked is ill."""
CONTEXT_TOKENS: Final = 32_768
"""What is advertised; the server itself refuses what is too long for it."""
_MAX_REFUSAL_CHARACTERS: Final = 300
_BYTES_PER_TOKEN: Final = 4
"""For prompts of which the server does not say how many tokens they have."""


class _Listed(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Listed]


_lists = msgspec.json.Decoder(_List)


def upstream_model(name: str) -> EngineModel:
    """Its shape is not known, so that its work is not counted: it is paid by its price alone."""
    digest = hashlib.sha256(b"cactus-mesh/upstream/1\x00" + name.encode()).digest()
    return EngineModel(name, digest, "upstream", CONTEXT_TOKENS, ("chat", "generate"), ModelShape(0, 0, 0, 0))


@asynccontextmanager
async def open_upstream(models: Sequence[str], url: str, *, key: str = "", slots: int = 32) -> AsyncIterator[Upstream]:
    """An engine with the models of these names at *url*, such as ``http://127.0.0.1:8000/v1``.

    Raises `ConfigMalformed`, `EngineFailed` when nobody answers there, or `ModelMissing` when the server lists its
    models and one is not among them.
    """
    try:
        server = Server(url, key.strip())  # a file of which it was read ends with a new line
    except ValueError as error:
        raise ConfigMalformed(f"engine.url: {error}") from None
    async with open_service_nursery() as nursery:
        upstream = Upstream(server, models, slots)
        await upstream.look()
        nursery.start_soon(upstream.keep_looking)
        yield upstream


class Upstream:
    """Obtained from `open_upstream`."""

    def __init__(self, server: Server, models: Sequence[str], slots: int) -> None:
        self._server = server
        self._models = tuple(map(upstream_model, models))
        self._slots = slots
        self._wrong = ""
        """Why the server cannot be used now; empty when it can."""
        self._share = _Share()

    @property
    def name(self) -> str:
        return "upstream, OpenAI API"

    @property
    def models(self) -> tuple[EngineModel, ...]:
        return self._models

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def memory(self) -> None:
        return None

    @property
    def healthy(self) -> bool:
        return not self._wrong

    # --- its health --------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Raises `EngineFailed` or `ModelMissing`."""
        listed = await self._listed()
        if missing := [model.name for model in self._models if listed is not None and model.name not in listed]:
            known = ", ".join(sorted(listed or ()))[:500]
            raise ModelMissing(f"the server at {self._server.url} has no model {missing[0]!r}; it has: {known}")

    async def _listed(self) -> set[str] | None:
        """The server's models, or None when it is well and does not list them."""
        try:
            with trio.fail_after(LOOK_SECONDS):
                async with open_reply(self._server, "models") as reply:
                    if reply.status == 200:
                        return {model.id for model in _lists.decode(await reply.whole()).data}
                async with open_reply(self._server, "/health") as reply:
                    status = reply.status
        except trio.TooSlowError:
            raise EngineFailed(f"the server at {self._server.url} said nothing for {LOOK_SECONDS:.0f} s") from None
        except HttpFailed as error:
            raise EngineFailed(f"the server at {self._server.url} does not answer: {error}") from None
        except msgspec.DecodeError:
            return None
        if status >= 500 or status in (401, 403) or status // 100 == 3:
            raise EngineFailed(f"the server at {self._server.url} answers with status {status}")
        return None

    async def keep_looking(self) -> None:
        while True:
            await trio.sleep(HEALTH_SECONDS / (10 if self._wrong else 1))
            wrong = ""
            try:
                await self.look()
            except (EngineFailed, ModelMissing) as error:
                wrong = error.message
            if bool(wrong) != bool(self._wrong):
                logger.warning("the upstream engine: %s", wrong or "is well again")
            self._wrong = wrong

    # --- generations -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def generate(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, before: Sequence[int] = ()
    ) -> AsyncIterator[_Events]:
        check_parameters(work, sampling, seed)
        model = find_model(self._models, model_digest, work)
        if before:
            raise CannotContinue("the server behind this orchestrator cannot go on from another one's tokens")
        body = msgspec.json.encode(body_of(model.name, work, sampling, seed))
        if self._wrong:
            raise EngineFailed(self._wrong)
        if self._share.active >= self._slots:
            raise Busy(f"all {self._slots} slots are taken; try again or ask another orchestrator")
        turn = self._share.begin()
        async with AsyncExitStack() as stack:
            stack.callback(turn.end)
            reply = await self._begin(stack, path_of(work), body)
            answer = answer_to(sampling)
            events = self._events(reply, work, answer, turn)
            stack.push_async_callback(events.aclose)
            yield _Events(events, answer)

    async def replay(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, token_ids: Sequence[int]
    ) -> Replay:
        """Raises `BadParameters`: it has no way to."""
        raise BadParameters(
            "the server behind this orchestrator cannot replay answers; ask one with an engine of its own"
        )

    async def reread(self, model_digest: bytes, work: Work, places: Sequence[int]) -> Rereading:
        """Raises `BadParameters`: none of its models reads texts whole."""
        raise BadParameters("the server behind this orchestrator cannot read texts again; ask one that has an engine")

    async def _begin(self, stack: AsyncExitStack, path: str, body: bytes) -> Reply:
        for attempt in range(ATTEMPTS):
            try:
                reply = await stack.enter_async_context(open_reply(self._server, path, body))
                if reply.status == 200:
                    return reply
                text = (await reply.whole()).decode(errors="replace")[:_MAX_REFUSAL_CHARACTERS]
                _raise_refusal(reply.status, text)
            except HttpFailed as error:
                text = str(error)
            await trio.sleep(FIRST_RETRY_SECONDS * 2**attempt)
        raise EngineFailed(f"the server behind this orchestrator failed {ATTEMPTS} times: {text}")

    async def _events(self, reply: Reply, work: Work, answer: Answer, turn: _Turn) -> AsyncGenerator[EngineEvent]:
        prompt_tokens = 0
        async with aclosing(self._pieces(reply)) as pieces:
            async for piece in pieces:
                prompt_tokens = piece.prompt_tokens or prompt_tokens
                if answer.stopped:
                    break
                if tokens := answer.take(piece):
                    yield tokens
                if answer.finish == "stop_string":
                    break
        if (answer.finish or not answer.stopped) and (tokens := answer.rest()):
            yield tokens
        turn.end()
        finish = answer.finish or ("cancelled" if answer.stopped else "stop")
        yield EngineFinish(finish, prompt_tokens or _guess(work), max(1, math.ceil(turn.seconds * 1000)))

    async def _pieces(self, reply: Reply) -> AsyncGenerator[Piece]:
        stream = Stream()
        try:
            while not stream.over and (data := await reply.receive()):
                for piece in stream.feed(data):
                    yield piece
            stream.end()
        except (HttpFailed, ValueError) as error:
            raise EngineFailed(f"the server behind this orchestrator broke off: {error}") from None


class _Events:
    """A `ports.Generation`."""

    def __init__(self, events: AsyncGenerator[EngineEvent], answer: Answer) -> None:
        self._events = events
        self._answer = answer

    def __aiter__(self) -> AsyncIterator[EngineEvent]:
        return self._events

    async def __anext__(self) -> EngineEvent:
        return await anext(self._events)

    def stop(self) -> None:
        """Heard when the server's next piece comes."""
        self._answer.stopped = True


def _raise_refusal(status: int, text: str) -> None:
    """What the server will not do however often it is asked; a failure of its own is tried again."""
    if status == 429:
        raise Busy("the server behind this orchestrator is busy; try again or ask another one")
    if status in (401, 403, 404) or status // 100 == 3:  # its key, its model or its address, none of which is asked for
        raise EngineFailed(f"the server behind this orchestrator is set up wrongly ({status}): {text}")
    if status < 500:
        raise BadParameters(f"the server behind this orchestrator refuses the request ({status}): {text}")


def _guess(work: Work) -> int:
    return max(1, sum(len(text.encode()) for text in texts_of(work)) // _BYTES_PER_TOKEN)


class _Share:
    """Divides time among those that are being served: each has its part of the server, not all of its time."""

    def __init__(self) -> None:
        self.active = 0
        self._clock = 0.0
        """Seconds that somebody has had who was there from the beginning."""
        self._at = 0.0

    def begin(self) -> _Turn:
        turn = _Turn(self, self.now())
        self.active += 1
        return turn

    def now(self) -> float:
        now = trio.current_time()
        if self.active:
            self._clock += (now - self._at) / self.active
        self._at = now
        return self._clock


class _Turn:
    def __init__(self, share: _Share, began: float) -> None:
        self._share = share
        self._began = began
        self.seconds: float = 0.0
        self._over = False

    def end(self) -> None:
        if not self._over:
            self._over = True
            self.seconds = self._share.now() - self._began
            self._share.active -= 1
