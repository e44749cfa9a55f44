"""``run``: a node in this process, until it is stopped."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Final

import click
import trio

from cactus_mesh.cli.base import command, json_option, load, main, network_options
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.terminal import Doing, print_json, printable, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cactus_mesh.config import Config, Home
    from cactus_mesh.live import Live
    from cactus_mesh.node import Node
    from cactus_mesh.observability.meter import Meter

_STARTING: Final = "loading models and joining the network"


@main.command()
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["orchestrator", "router", "relay", "bootstrap"]),
    help="What to be; repeatable. Default: orchestrator.",
)
@network_options
@click.option("--model", "models", multiple=True, metavar="NAME|PATH", help="A model to serve; repeatable.")
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Where to listen; repeatable.")
@click.option("--engine", type=click.Choice(["torch", "openai"]), help="Run models here, or at another server.")
@click.option("--engine-url", metavar="URL", help="That server, such as http://127.0.0.1:8000/v1.")
@click.option("--device", metavar="DEVICE", help="What models run on: auto, cpu, cuda, mps.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Part of a model's identity.")
@click.option("--slots", type=click.IntRange(min=1), help="Tasks that the engine runs at once.")
@click.option("--memory-mib", type=click.IntRange(min=0), metavar="N", help="For all models in memory; 0: most of it.")
@click.option("--delegate", type=click.IntRange(min=0), metavar="N", help="Hand on up to N tasks when full.")
@click.option("--metrics", "metrics_at", metavar="HOST:PORT", help="Serve Prometheus metrics; PORT alone on loopback.")
@click.option("--gateway", "with_gateway", is_flag=True, help="Serve OpenAI's API on this machine too.")
@click.option("--until-stdin-closes", is_flag=True, help="Stop when the program that started this one is gone.")
@json_option
@click.pass_obj
@command
async def run(
    home: Home,
    roles: tuple[str, ...],
    bootstrap: tuple[str, ...],
    network: str | None,
    ledger: str | None,
    models: tuple[str, ...],
    listen: tuple[str, ...],
    engine: str | None,
    engine_url: str | None,
    device: str | None,
    dtype: str | None,
    slots: int | None,
    memory_mib: int | None,
    delegate: int | None,
    metrics_at: str | None,
    with_gateway: bool,
    until_stdin_closes: bool,
    as_json: bool,
) -> None:
    """Join a network and serve until stopped.

    \b
    Example: cactus-mesh run --bootstrap /ip4/203.0.113.5/tcp/4101/p2p/12D3KooW…
    """
    from cactus_mesh.control import open_control
    from cactus_mesh.lifetime import open_lifetime
    from cactus_mesh.node import open_live_of, open_node

    about_engine = {"kind": engine, "url": engine_url, "device": device, "dtype": dtype, "slots": slots}
    about_engine["memory_mib"] = memory_mib
    given = {name: value for name, value in about_engine.items() if value is not None}
    config = load(
        home,
        roles=list(roles) or None,
        bootstrap=list(bootstrap) or None,
        network=network,
        ledger=ledger,
        models=list(models) or None,
        listen=list(listen) or None,
        engine=given or None,
        serving=None if delegate is None else {"delegated_slots": delegate},
        metrics=None if metrics_at is None else {"listen": metrics_at},
    )
    meter = _meter(config, with_gateway=with_gateway)
    answers: dict[str, Callable[[str], object]] = {}
    with Doing(_STARTING) as doing:
        async with (
            open_lifetime(stdin_too=until_stdin_closes) as lifetime,
            _counting(doing) as counting,
            open_control(home.control_file, answers),
            open_node(config, home, meter=meter) as node,
            open_live_of(node, home) as live,
        ):
            counting.cancel()
            doing.now("")
            answers |= node.answers() | {"live": lambda _: live.fresh()}
            async with (
                _scraped(config, meter, as_json=as_json),
                _gateway(node, home, meter, live, as_json=as_json) if with_gateway else nullcontext(),
            ):
                await _announce(node, as_json=as_json)
                await lifetime.serving()
                if not as_json:
                    say("stopping: letting running tasks end and settling them")


@asynccontextmanager
async def _counting(doing: Doing) -> AsyncIterator[trio.CancelScope]:
    """The seconds that it takes, until that is cancelled: a large model is loaded for minutes."""

    async def count(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            for seconds in itertools.count(1):
                await trio.sleep(1)
                doing.now(f"{_STARTING}, {seconds} s")

    async with open_service_nursery() as nursery:
        yield await nursery.start(count)


def _meter(config: Config, *, with_gateway: bool) -> Meter | None:
    """Only where somebody can read it."""
    if not config.metrics.listen and not with_gateway:
        return None
    from cactus_mesh.observability.meter import Meter

    return Meter()


@asynccontextmanager
async def _scraped(config: Config, meter: Meter | None, *, as_json: bool) -> AsyncIterator[None]:
    if meter is None or not config.metrics.listen:
        yield
        return
    from cactus_mesh.gateway.scrape import open_scrape

    async with open_scrape(config.metrics.listen, meter.text) as url:
        if as_json:
            print_json({"event": "metrics", "url": url})
        else:
            click.echo(f"metrics    {url}")
        yield


@asynccontextmanager
async def _gateway(node: Node, home: Home, meter: Meter | None, live: Live, *, as_json: bool) -> AsyncIterator[None]:
    from cactus_mesh.cli.gateway import announce
    from cactus_mesh.clients import open_client_beside
    from cactus_mesh.gateway.server import open_gateway

    async with (
        open_client_beside(node, home) as client,
        open_gateway(
            client,
            node.config.gateway,
            home.gateway_keys_file,
            node_metrics=meter.text if meter else None,
            picture=live,
        ) as opened,
    ):
        live.spent_today = client.spent_today
        announce(opened, node.config, as_json=as_json)
        yield


async def _announce(node: Node, *, as_json: bool) -> None:
    if as_json:
        print_json({"event": "ready", **node.status(), "join": node.join_line()})
        return
    status = node.status()
    click.echo(f"peer id    {status['peer_id']}")
    click.echo(f"account    {status['address']}")
    click.echo(f"network    {status['network']} as {', '.join(status['roles'])}; ledger {status['ledger']}")
    for address in status["addresses"]:
        click.echo(f"listening  {address}")
    for offer in node.offers:
        click.echo(f"serving    {printable(offer.name)} ({offer.dtype}, {offer.digest.hex()[:12]})")
    for hint in await node.hints():
        click.echo(f"note       {hint}")
    click.echo("\nTo join through this node, run on another machine:")
    click.echo(f"  {node.join_line()}\n")
    click.echo("ready; stop with Ctrl-C")
