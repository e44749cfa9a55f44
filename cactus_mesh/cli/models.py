"""``models list|add|verify|remove``: which models this machine may serve."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
import trio

from cactus_mesh.cli.base import command, json_option, main
from cactus_mesh.cli.progress import Progress
from cactus_mesh.terminal import print_json, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.config import Home
    from cactus_mesh.engine.library import Entry, Library
    from cactus_mesh.engine.models import ModelFolder

T = TypeVar("T")

_DTYPES = click.Choice(["bfloat16", "float16", "float32"])
_dtype_option = click.option("--dtype", type=_DTYPES, default="float32", show_default=True, help="Of the digest.")


@main.group()
def models() -> None:
    """Which models this machine may serve, each with the digest of its files.

    \b
    Example: cactus-mesh models list
    """


@models.command("list")
@_dtype_option
@json_option
@click.pass_obj
@command
async def list_models(home: Home, dtype: str, as_json: bool) -> None:
    """List the models that have been added.

    \b
    Example: cactus-mesh models list
    """
    found = [_described(entry, dtype) for entry in _library(home).entries.values()]
    if as_json:
        print_json({"models": found})
        return
    if not found:
        click.echo("none yet; add one with: cactus-mesh models add OWNER/NAME (or a folder)")
    for each in found:
        click.echo(f"{each['digest'][:12]}  {each['bytes'] / 1e6:10,.1f} MB  {printable(each['name'])}")


@models.command()
@click.argument("model")
@click.option("--digest", metavar="HEX", help="Add it only if this is how its digest begins.")
@_dtype_option
@json_option
@click.pass_obj
@command
async def add(home: Home, model: str, digest: str | None, dtype: str, as_json: bool) -> None:
    """Add MODEL, a folder or a hub id, which is fetched; an interrupted download goes on where it was.

    \b
    Example: cactus-mesh models add Qwen/Qwen3-0.6B
    """
    from cactus_mesh.engine.library import entry_of, find, require

    library = _library(home)
    with Progress(f"fetching {model}", shown=not as_json) as progress:
        folder = await _left_behind(partial(find, model, fetch=progress.tell))
    entry = await _reading(folder, partial(entry_of, model, folder), as_json=as_json)
    require(digest, entry, dtype)
    library.put(entry)
    _tell(_described(entry, dtype), f"added; serve it with: cactus-mesh run --model {entry.name}", as_json=as_json)


@models.command()
@click.argument("name", required=False)
@json_option
@click.pass_obj
@command
async def verify(home: Home, name: str | None, as_json: bool) -> None:
    """Read the files of NAME, or of all models, and compare them with what was added.

    \b
    Example: cactus-mesh models verify
    """
    from cactus_mesh.engine.library import differences, find
    from cactus_mesh.engine.models import listing
    from cactus_mesh.errors import MeshError, ModelRefused

    library = _library(home)
    wrong = []
    for entry in [library.get(name)] if name else list(library.entries.values()):
        try:
            folder = await trio.to_thread.run_sync(find, entry.source)
            found = differences(entry, await _reading(folder, partial(listing, folder), as_json=as_json))
        except MeshError as error:
            if name:
                raise
            found = [error.message]
        wrong += [f"{entry.name}: {each}" for each in found]
        if not as_json:
            click.echo(f"{'CHANGED' if found else 'as added'}  {printable(entry.name)}")
    if wrong:
        raise ModelRefused("; ".join(wrong)[:2000])
    if as_json:
        print_json({"verified": [name] if name else list(library.entries)})


@models.command()
@click.argument("name")
@click.option("--delete", is_flag=True, help="Delete what was fetched of it too.")
@json_option
@click.pass_obj
@command
async def remove(home: Home, name: str, delete: bool, as_json: bool) -> None:
    """Take NAME off the list.  A folder of your own is never deleted.

    \b
    Example: cactus-mesh models remove my-model
    """
    from cactus_mesh.engine import hub
    from cactus_mesh.engine.models import hub_id

    library = _library(home)
    entry = library.get(name)
    library.remove(name)
    freed = 0
    if delete and hub_id(entry.source):
        freed = await trio.to_thread.run_sync(hub.delete, entry.source)
    _tell({"removed": name, "freed_bytes": freed}, f"removed; {freed / 1e6:,.1f} MB deleted", as_json=as_json)


def _library(home: Home) -> Library:
    from cactus_mesh.engine.library import Library

    return Library(home.models_file)


def _described(entry: Entry, dtype: str) -> dict[str, Any]:
    digest = entry.digest(dtype).hex()
    return {"name": entry.name, "source": entry.source, "digest": digest, "dtype": dtype, "bytes": entry.size}


async def _reading(folder: ModelFolder, work: Callable[[Callable[[int], object]], T], *, as_json: bool) -> T:
    """Do *work*, which reads all files of *folder*."""
    size = sum((folder.path / name).stat().st_size for name in folder.files)
    with Progress(f"reading {folder.name}", shown=not as_json) as progress:
        return await _left_behind(partial(work, lambda read: progress.tell(progress.done + read, size)))


async def _left_behind(work: Callable[[], T]) -> T:
    """Do *work* in a thread that Ctrl-C does not wait for."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def _tell(found: dict[str, Any], line: str, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(printable(line))
