"""The command line: ``cactus-mesh COMMAND``.  Parses, calls one function of the package, prints; decides nothing else.

A command's module is loaded when it is wanted, and it imports what it needs inside itself, so that ``--help`` answers
at once.
"""

from cactus_mesh.cli.base import main

__all__ = ["main"]
