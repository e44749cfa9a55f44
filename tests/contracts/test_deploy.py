"""The really compiled modules pass the checks of ``cactus-mesh deploy``, and fit into one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cactus_mesh.identity import Address
from cactus_mesh.ledger.publish import MAX_PAYLOAD_BYTES, MODULES, Package, check_package

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHER = Address("0x" + "1".zfill(64))
"""For whom the VM's modules are compiled."""
METADATA_BYTES = 2_000
"""More than the package's metadata has without its sources, which `--included-artifacts none` leaves out."""


def test_the_compiled_contract_can_be_deployed(modules: list[Path]) -> None:
    ours = tuple(path.read_bytes() for path in modules if path.stem in MODULES)
    check_package(Package(bytes(METADATA_BYTES), ours), PUBLISHER)
    assert sum(map(len, ours)) + METADATA_BYTES < MAX_PAYLOAD_BYTES
