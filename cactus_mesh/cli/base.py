"""What the commands share: the group, how an async command is run, and the options that several have."""

from __future__ import annotations

import os
import sys
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec

import click

from cactus_mesh import __version__
from cactus_mesh.cli.contents import EXIT_STATUSES, INTERRUPTED, MODULE_OF, NO_READER, ORDER, SECTIONS
from cactus_mesh.errors import MeshError, UsageError
from cactus_mesh.terminal import complain, discard_output, flush, keep_streams, set_up_logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from click.shell_completion import CompletionItem

    from cactus_mesh.config import Config, Home

P = ParamSpec("P")


_AS_JSON: Final = "cactus_mesh.as_json"


class _Commands(click.Group):
    """Loads a command's module when it is wanted, and lists them in sections without loading any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*ORDER]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in MODULE_OF:
            import_module(f"cactus_mesh.cli.{MODULE_OF[cmd_name]}")
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in MODULE_OF or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        import difflib

        near = difflib.get_close_matches(name, ORDER, n=2)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise click.UsageError(f"there is no command {name!r}.{meant}", ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names from the table; what follows a command is the command's to complete."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=words)
            for section in SECTIONS.values()
            for name, (_, words) in section.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, words) for name, (_, words) in commands.items()], col_spacing=2)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit status"):
            formatter.write_dl([(str(status), words.replace("`", "")) for status, words in EXIT_STATUSES.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            keep_streams()
            return super().main(*args, **extra)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        as_json = "--json" in args
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[_AS_JSON] = as_json
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """Ctrl-C and a reader that has gone end every command alike, without a word; a mistake in --json's way."""
        try:
            found = super().invoke(ctx)
            flush()
        except (KeyboardInterrupt, click.Abort):
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            discard_output()
            sys.exit(NO_READER)
        except click.UsageError as error:
            if not ctx.meta.get(_AS_JSON):
                raise
            complain(UsageError(error.format_message()), as_json=True)
            sys.exit(error.exit_code)
        return found


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cactus-mesh")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Keep key, config and state here.")
@click.option("-v", "--verbose", count=True, help="Log what happens; twice for the libraries too.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def main(ctx: click.Context, home: Path | None, verbose: int, log_format: str) -> None:
    """A peer-to-peer network for AI inference that anyone joins with one command.

    \b
    Example: cactus-mesh demo
    Join a network and serve:  cactus-mesh run --bootstrap /ip4/…/tcp/…/p2p/…
    Ask it something:          cactus-mesh ask "What is a router?" --bootstrap …

    Settings come from options, then CACTUS_MESH_… variables, then config.toml, then the network's file.
    Every command takes --json where it prints anything, and shows an example with --help.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    from cactus_mesh.home import find_home

    set_up_logging(verbose, log_format)
    if any(name.startswith("OTEL_") for name in os.environ):
        from cactus_mesh.observability.tracing import open_tracing

        ctx.with_resource(open_tracing())
    ctx.obj = find_home(home)


_TOLD: Final = (MeshError, KeyboardInterrupt, BrokenPipeError, SystemExit, click.ClickException)
"""What is no bug: it ends a command without a trace."""


def _end_with(error: BaseException, *, as_json: bool) -> NoReturn:
    if not isinstance(error, MeshError):
        raise error
    complain(error, as_json=as_json)
    sys.exit(error.exit_status)


def command(function: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async command; a `MeshError` becomes one line and its exit status."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        import trio

        as_json = bool(kwargs.get("as_json"))
        try:
            trio.run(partial(function, *args, **kwargs))
        except MeshError as error:
            _end_with(error, as_json=as_json)
        except BaseExceptionGroup as group:
            from cactus_mesh.concurrency import first_of

            first = first_of(group)
            if not isinstance(first, _TOLD):
                raise
            _end_with(first, as_json=as_json)

    return run


def plain_command(function: Callable[P, None]) -> Callable[P, None]:
    """Run a command that waits for nothing; a `MeshError` becomes one line and its exit status."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except MeshError as error:
            _end_with(error, as_json=bool(kwargs.get("as_json")))

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
