"""The gateway as a whole: what is at which path, around one client of the mesh."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from starlette.routing import Match, Route

from cactus_mesh.errors import MeshError, PathUnknown, RequestMalformed, UnknownModel
from cactus_mesh.gateway.asked import chat_of, completion_of, vectors_of
from cactus_mesh.gateway.connections import open_server
from cactus_mesh.gateway.dashboard.assets import read_assets
from cactus_mesh.gateway.dashboard.feed import Feed
from cactus_mesh.gateway.faults import Fault, fault_of
from cactus_mesh.gateway.guard import PAGE, PAGE_FILES, Guard, cors
from cactus_mesh.gateway.http import ClientGone, header, json_of, read_body, reply
from cactus_mesh.gateway.keys import Keyring
from cactus_mesh.gateway.logprobs import Tokens
from cactus_mesh.gateway.metrics import CONTENT_TYPE, Metrics
from cactus_mesh.gateway.replies import Completion, Vectors, encode, model_object
from cactus_mesh.gateway.responses import Response, response_of
from cactus_mesh.gateway.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from starlette.types import Message, Receive, Scope, Send

    from cactus_mesh.answer import Answer
    from cactus_mesh.client import Client
    from cactus_mesh.config import GatewayConfig
    from cactus_mesh.gateway.asked import Asked, AskedVectors
    from cactus_mesh.gateway.dashboard.feed import Picture
    from cactus_mesh.gateway.guard import Caller
    from cactus_mesh.gateway.tasks import Shape
    from cactus_mesh.messages import Listed

    Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

MODELS_SECONDS: Final = 5.0
"""How old the list of models may be."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway.  *url* is what to give to clients as their base URL, less ``/v1``."""

    url: str
    needs_key: bool
    dashboard: bool = False
    """Whether there is a page at the url itself."""

    def example(self, model: str) -> str:
        """A command to try it with."""
        key = '-H "Authorization: Bearer $CACTUS_API_KEY" ' if self.needs_key else ""
        body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "What is a router?"}}]}}'
        return f"curl {self.url}/v1/chat/completions {key}-H 'Content-Type: application/json' -d '{body}'"


@asynccontextmanager
async def open_gateway(
    client: Client,
    config: GatewayConfig,
    keys_file: Path | None,
    *,
    node_metrics: Callable[[], bytes] | None = None,
    picture: Picture | None = None,
) -> AsyncIterator[Gateway]:
    """Serve OpenAI's API for *client* until the block is left; *node_metrics* are shown with its own.

    With a *picture* there is a dashboard, unless the configuration says no.

    Raises `GatewayKeysMissing` when others could reach it and nobody has a key, and what is wrong with the file of
    keys or the address.
    """
    keys = Keyring(keys_file)
    feed = Feed(picture) if picture is not None and config.dashboard else None
    app = _App(client, config, Guard(config, keys), node_metrics, feed)
    async with open_server(app, config.host, config.port, connections=config.connections) as server:
        app.connections = lambda: server.connections
        host = f"[{config.host}]" if ":" in config.host else config.host
        try:
            yield Gateway(f"http://{host}:{server.port}", bool(keys), feed is not None)
        finally:
            if feed is not None:
                feed.close()


class _App:
    """The outermost ASGI application: lets in, answers errors, counts."""

    def __init__(
        self,
        client: Client,
        config: GatewayConfig,
        guard: Guard,
        node_metrics: Callable[[], bytes] | None,
        feed: Feed | None,
    ) -> None:
        self._guard = guard
        self._feed = feed
        self._client = client
        self._tasks = Tasks(client, config)
        self.connections: Callable[[], int] = lambda: 0
        self._metrics = Metrics(lambda: self._tasks.running, lambda: self.connections(), node_metrics)
        self._tasks.metrics = self._metrics
        self._listed: tuple[Sequence[Listed], float] = ((), -MODELS_SECONDS)
        self._listing = trio.Lock()
        self._routes = [
            _route("/v1/chat/completions", "POST", self._task(chat_of, partial(_completion, True))),
            _route("/v1/completions", "POST", self._task(completion_of, partial(_completion, False))),
            _route("/v1/responses", "POST", self._task(response_of, _response)),
            _route("/v1/embeddings", "POST", self._embeddings),
            _route("/v1/models", "GET", self._models),
            _route("/v1/models/{model:path}", "GET", self._model),
            _route("/healthz", "GET", self._alive),
            _route("/readyz", "GET", self._ready),
            _route("/metrics", "GET", self._count),
        ]
        if feed is not None:
            self._routes += _dashboard(feed, guard)
        self._paths = ", ".join(sorted(route.path for route in self._routes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["cactus.began"] = began = trio.current_time()
        scope["cactus.route"] = "other"
        started: list[int] = []
        caller: Caller | None = None

        async def tell(event: Message) -> None:
            if event["type"] == "http.response.start":
                started.append(event["status"])
                extra = {**_SAFE, **({} if caller is None else cors(caller, preflight=False))}
                raw = [(name.encode(), value.encode()) for name, value in extra.items()]
                event["headers"] = [*event["headers"], *raw]
            await send(event)

        try:
            caller = self._guard.judge(scope, began)
            scope["cactus.caller"] = caller.name
            await self._dispatch(scope, receive, tell, caller)
        except ClientGone:
            return
        except Exception as error:
            await self._fail(scope, receive, tell, error, started)
        finally:
            status = str(started[0]) if started else "gone"
            self._metrics.requests.labels(scope["cactus.route"], status).inc()
            self._metrics.seconds.labels(scope["cactus.route"]).observe(trio.current_time() - began)
            if "cactus.code" in scope:
                self._metrics.errors.labels(scope["cactus.code"]).inc()

    async def _fail(self, scope: Scope, receive: Receive, send: Send, error: Exception, started: Sequence[int]) -> None:
        fault = fault_of(error)
        scope["cactus.code"] = fault.error.code
        if fault.status == 500:
            log.error("a request failed", exc_info=error, extra={"route": scope["cactus.route"]})
        if started:
            return  # half a reply: the connection is closed, which is all that can still be told
        close = {"connection": "close"} if fault.status in (408, 413) else {}
        await reply(send, fault.status, encode(fault.body()), fault.headers() | close)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        if scope["method"] == "OPTIONS" and caller.origin is not None:
            await reply(send, 204, b"", cors(caller, preflight=True))
            return
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                scope["cactus.route"] = route.path
                await found["endpoint"](scope, receive, send)
                return
        raise PathUnknown(f"there is no {scope['method']} {scope['path'][:80]!r} here; there are {self._paths}")

    # --- endpoints -----------------------------------------------------------------------------------------------

    def _task(
        self, understand: Callable[[dict[str, object]], Asked], shape_of: Callable[[Asked, bytes], Shape]
    ) -> Endpoint:
        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            asked = understand(await _json(scope, receive))
            with self._tasks.slot():
                answer = self._begin(scope, asked)
                shape = shape_of(asked, answer.task_id)
                reply_to = self._tasks.stream if asked.stream else self._tasks.whole
                await reply_to(scope, receive, send, answer, shape)

        return endpoint

    def _begin(self, scope: Scope, asked: Asked | AskedVectors) -> Answer:
        answer = self._tasks.begin(scope, asked)
        if self._feed is not None:
            self._feed.asked(answer.task_id, scope["cactus.caller"])
        return answer

    async def _embeddings(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = vectors_of(await _json(scope, receive))
        with self._tasks.slot():
            answer = self._begin(scope, asked)
            shape = Vectors(asked.model, len(asked.texts), asked.base64)
            await self._tasks.whole(scope, receive, send, answer, shape)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = [model_object(each) for each in await self._list()]
        await reply(send, 200, encode({"object": "list", "data": found}), {})

    async def _model(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["model"]
        for each in await self._list():
            if each.offer.name == name:
                await reply(send, 200, encode(model_object(each)), {})
                return
        raise Fault(UnknownModel(f"nobody offers {name[:200]!r} now; GET /v1/models lists what there is"), "model")

    async def _list(self) -> Sequence[Listed]:
        async with self._listing:
            listed, since = self._listed
            if trio.current_time() - since >= MODELS_SECONDS:
                listed = await self._client.models()
                self._listed = listed, trio.current_time()
            return listed

    async def _alive(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, 200, encode({"status": "ok"}), {})

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A router answers and knows of a model."""
        try:
            models = len(await self._list())
        except MeshError as error:
            await reply(send, 503, encode({"status": "not ready", "code": error.code}), {"retry-after": "2"})
            return
        status, word = (200, "ready") if models else (503, "not ready")
        await reply(send, status, encode({"status": word, "models": models}), {} if models else {"retry-after": "2"})

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, 200, self._metrics.text(), {}, CONTENT_TYPE)


def _dashboard(feed: Feed, guard: Guard) -> list[Route]:
    assets = read_assets()

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await assets["index.html"].serve(scope, send)

    async def file(scope: Scope, receive: Receive, send: Send) -> None:
        found = assets.get(scope["path_params"]["name"])
        if found is None:
            raise PathUnknown("the dashboard has no such file; load its page again")
        await found.serve(scope, send)

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        def welcome() -> bool:
            return guard.still(scope, trio.current_time())

        await feed.serve(scope, receive, send, alone=lambda: not guard.has_keys, welcome=welcome)

    return [
        _route(PAGE, "GET", page),
        _route(PAGE_FILES + "{name}", "GET", file),
        _route("/dashboard/live", "GET", live),
    ]


def _completion(chat: bool, asked: Asked, task_id: bytes) -> Shape:
    return Completion(chat, asked.model, task_id, asked.include_usage, _tokens(asked, chat=chat))


def _response(asked: Asked, task_id: bytes) -> Shape:
    return Response(asked.model, task_id, _tokens(asked, chat=True))


def _tokens(asked: Asked, *, chat: bool) -> Tokens | None:
    """What lists them, where they are asked for."""
    wanted = asked.options.get("top_logprobs") is not None
    return Tokens(chat, cut=bool(asked.options.get("stop"))) if wanted else None


_SAFE: Final = {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin"}
"""What a browser gets to see is what it is called, and for pages of this gateway alone."""


def _route(path: str, method: str, endpoint: Endpoint) -> Route:
    return Route(path, _Asgi(endpoint), methods=[method])


class _Asgi:
    """Tells Starlette that an endpoint is an ASGI application."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)


async def _json(scope: Scope, receive: Receive) -> dict[str, object]:
    kind = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which no page can send to another origin without asking first
        raise RequestMalformed("send JSON, with the header Content-Type: application/json")
    return json_of(await read_body(scope, receive))
