from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contracts.fixtures import modules, tools, vm
from tests.ledger.node import Node, open_node
from tests.ledger.stage import Stage, open_fake_stage, open_rest_stage
from tests.ledger.world import World, new_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["modules", "tools", "vm"]


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture(params=["in memory", "over REST"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """A furnished ledger of each kind."""
    opened = open_fake_stage if request.param == "in memory" else open_rest_stage
    async with opened(tmp_path) as stage:
        await stage.furnish()
        yield stage


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Stage]:
    async with open_rest_stage(tmp_path) as stage:
        await stage.furnish()
        yield stage


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with open_node(tmp_path) as node:
        yield node
