"""What the commands share: the group, how an async command is run, and the options that several have."""

from __future__ import annotations

import os
import sys
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, ParamSpec

import click

from cactus_mesh import __version__
from cactus_mesh.errors import MeshError
from cactus_mesh.terminal import complain, set_up_logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cactus_mesh.config import Config, Home

P = ParamSpec("P")


ORDER: Final = (
    *("demo", "run", "ask", "gateway", "doctor", "status", "peers", "ping"),
    *("service", "id", "keygen", "models", "network", "backup", "restore"),
    *("devnet", "fund", "balance", "deposit", "withdraw", "claim", "stake", "unstake"),
    *("operator-consent", "set-operator", "register", "authorize", "revoke", "calibrate", "audits"),
    *("dispute", "admin", "deploy"),
)


class _Commands(click.Group):
    """Lists the commands of a first session first, in its order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.commands, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cactus-mesh")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Keep key, config and state here.")
@click.option("-v", "--verbose", count=True, help="Log what happens; twice for the libraries too.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def main(ctx: click.Context, home: Path | None, verbose: int, log_format: str) -> None:
    """A peer-to-peer network for AI inference that anyone joins with one command.

    \b
    Try it all on this machine:   cactus-mesh demo
    Join a network and serve:     cactus-mesh run --bootstrap /ip4/…/tcp/…/p2p/…
    Ask it something:             cactus-mesh ask "What is a router?" --bootstrap …

    Settings come from options, then CACTUS_MESH_… variables, then config.toml, then the network's file.
    Exit status: 2 usage, 3 a peer's fault, 4 the ledger, 5 nobody reachable, 6 the task, 7 doctor.
    """
    from cactus_mesh.config import find_home

    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    set_up_logging(verbose, log_format)
    if any(name.startswith("OTEL_") for name in os.environ):
        from cactus_mesh.observability.tracing import open_tracing

        ctx.with_resource(open_tracing())
    ctx.obj = find_home(home)


def _end_with(error: MeshError, *, as_json: bool) -> NoReturn:
    complain(error, as_json=as_json)
    sys.exit(error.exit_status)


def command(function: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async command; a `MeshError` becomes one line and its exit status."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        import trio

        try:
            trio.run(partial(function, *args, **kwargs))
        except MeshError as error:
            _end_with(error, as_json=bool(kwargs.get("as_json")))
        except BaseExceptionGroup as group:
            from cactus_mesh.concurrency import first_of

            first = first_of(group)
            if isinstance(first, KeyboardInterrupt):
                sys.exit(130)
            if not isinstance(first, MeshError):
                raise
            _end_with(first, as_json=bool(kwargs.get("as_json")))
        except KeyboardInterrupt:
            sys.exit(130)

    return run


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


NETWORK_OPTIONS: Final = (
    click.option("--ledger", metavar="URL", help="The ledger's REST API."),
    click.option("--network", metavar="NAME", help="Which network; its file names ledger and contract."),
)
_bootstrap_option = click.option(
    "--bootstrap", multiple=True, metavar="MULTIADDR", help="A peer to join through; repeatable."
)


def network_options(function: Callable[P, None]) -> Callable[P, None]:
    """What a command needs that joins a network."""
    for option in (*NETWORK_OPTIONS, _bootstrap_option):
        function = option(function)
    return function


def load(home: Home, **flags: object) -> Config:
    from cactus_mesh.config import load_config

    return load_config(home, {name: value for name, value in flags.items() if value not in (None, ())})
