"""The command line: ``cactus-mesh COMMAND``.  Parses, calls one function of the package, prints; decides nothing else.

A command's module is loaded when it is wanted, and it imports what it needs inside itself, so that ``--help`` answers
at once; even the group itself is, so that a Ctrl-C while that is loaded ends the program as any other does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cactus_mesh.cli.base import main as main

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    if name != "main":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from cactus_mesh.cli.base import main
    except KeyboardInterrupt:
        from cactus_mesh.cli.contents import INTERRUPTED

        raise SystemExit(INTERRUPTED) from None
    return main
