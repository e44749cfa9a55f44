"""``top``: the running node of this home, live."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from cactus_mesh.cli.base import command, json_option, main
from cactus_mesh.terminal import print_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cactus_mesh.config import Home

LEAST_SECONDS: Final = 0.2


@main.command()
@click.option("--every", type=click.FloatRange(LEAST_SECONDS, 3_600), metavar="SECONDS", default=1.0, show_default=True)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after N of them.")
@json_option
@click.pass_obj
@command
async def top(home: Home, every: float, count: int | None, as_json: bool) -> None:
    """Watch the running node: peers, tasks, throughput, latency, money, audits.

    On a terminal a screen that is drawn anew, which q leaves; elsewhere a line each time, with --json everything that
    docs/dashboard.md lists under "The snapshot".

    \b
    Example: cactus-mesh top --every 2
    """
    from cactus_mesh.control import ask_home

    async def look() -> dict[str, Any]:
        return await ask_home(home, "live")

    if as_json or not _is_screen():
        await _lines(look, every, count, as_json=as_json)
    else:
        await _screens(look, every, count)


def _is_screen() -> bool:
    from rich.console import Console

    return sys.stdin is not None and sys.stdin.isatty() and Console().is_terminal and not Console().is_dumb_terminal


async def _lines(
    look: Callable[[], Awaitable[dict[str, Any]]], every: float, count: int | None, *, as_json: bool
) -> None:
    import trio

    from cactus_mesh.cli.topview import one_line

    shown = 0
    while True:
        next_at = trio.current_time() + every
        picture = await look()
        if as_json:
            print_json(picture)
        else:
            click.echo(one_line(picture))
        shown += 1
        if shown == count:
            return
        await trio.sleep_until(next_at)


async def _screens(look: Callable[[], Awaitable[dict[str, Any]]], every: float, count: int | None) -> None:
    import trio
    from rich.live import Live

    from cactus_mesh.cli.keyboard import open_keys
    from cactus_mesh.cli.topview import screen
    from cactus_mesh.concurrency import open_service_nursery

    first = await look()
    with open_keys() as key, Live(screen(first), screen=True, auto_refresh=False) as live:
        async with open_service_nursery() as nursery:

            async def draw() -> None:
                shown = 1
                while shown != count:
                    await trio.sleep(every)
                    live.update(screen(await look()), refresh=True)
                    shown += 1
                nursery.cancel_scope.cancel()

            live.refresh()
            nursery.start_soon(draw)
            while await key() not in ("q", "Q", "\x1b", ""):
                pass
