"""The contract's rules as one pure, synchronous state machine: the specification that the Move contract follows.

No clock (the time is part of each transaction), no I/O, no ledger library.  `init` makes a `State`; each entry takes it
with a `Tx`, returns its events, or raises `Abort` and has changed nothing.  Described in docs/contract.md.
"""

from cactus_mesh.ledger.rules import admin, clients, disputes, servers, stakes, tasks, views
from cactus_mesh.ledger.rules.admin import init
from cactus_mesh.ledger.rules.codes import CODES, Abort, Code
from cactus_mesh.ledger.rules.entry import ENTRIES, Tx, mint, transfer
from cactus_mesh.ledger.rules.events import Event
from cactus_mesh.ledger.rules.invariants import conserved, violations
from cactus_mesh.ledger.rules.params import BOUNDS, Params
from cactus_mesh.ledger.rules.state import State
from cactus_mesh.ledger.rules.views import VIEWS

__all__ = [
    "BOUNDS",
    "CODES",
    "ENTRIES",
    "VIEWS",
    "Abort",
    "Code",
    "Event",
    "Params",
    "State",
    "Tx",
    "admin",
    "clients",
    "conserved",
    "disputes",
    "init",
    "mint",
    "servers",
    "stakes",
    "tasks",
    "transfer",
    "views",
    "violations",
]
