"""How others can reach this machine, decided from evidence.  Pure: evidence in, a ladder of steps out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reach = Literal["unknown", "public", "mapped", "private"]
"""*mapped*: through a port that the gateway forwards on our request.  *private*: only through relays and holes."""
Nat = Literal["unknown", "none", "endpoint-independent", "symmetric"]
StepName = Literal["public", "mapped", "punch", "relayed"]
StepState = Literal["trying", "works", "failed", "not needed"]


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of the ladder: what was tried, what came of it (*detail*), how long that took.

    *seconds* from its beginning to its outcome, or until now; *since* when it came to its state, in Unix seconds.
    """

    name: StepName
    state: StepState
    detail: str
    seconds: float
    since: float
