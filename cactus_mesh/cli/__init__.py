"""The command line: ``cactus-mesh COMMAND``.  Parses, calls one function of the package, prints; decides nothing else.

A command imports what it needs inside itself, so that ``--help`` answers at once.
"""

from cactus_mesh.cli import (  # noqa: F401 - each adds its commands to the group
    admin,
    ask,
    audits,
    backup,
    demo,
    deploy,
    devnet,
    disputes,
    doctor,
    gateway,
    keys,
    look,
    models,
    money,
    network,
    serve,
    service,
    stakes,
)
from cactus_mesh.cli.base import main

__all__ = ["main"]
