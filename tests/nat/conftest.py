from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.nat.internet import Internet, open_internet
from tests.nat.namespaces import REQUIRED, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def namespaces() -> None:
    """Skips loudly where there can be no lab; with CACTUS_REQUIRE_NAT=1 that is a failure."""
    missing = why_not()
    if not missing:
        return
    reason = f"NOTHING WAS TESTED BEHIND NATS: {missing}"
    if REQUIRED:
        pytest.fail(f"{reason} (CACTUS_REQUIRE_NAT=1)", pytrace=False)
    print(f"\n{reason}", file=sys.__stderr__)
    pytest.skip(reason)


@pytest.fixture
def internet() -> Iterator[Internet]:
    with open_internet() as made:
        yield made
