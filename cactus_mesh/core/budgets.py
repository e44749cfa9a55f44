"""How much of each client's deposit is promised to tasks that are not settled yet.  Amounts in octas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cactus_mesh.errors import NoFunds

if TYPE_CHECKING:
    from cactus_mesh.identity import Address


class Promised:
    """What this router has promised, by client, until `release`."""

    def __init__(self) -> None:
        self._by_client: dict[Address, int] = {}

    def of(self, client: Address) -> int:
        return self._by_client.get(client, 0)

    def check(self, client: Address, amount: int, deposit: int) -> None:
        """Raises `NoFunds` when *deposit* does not cover *amount* beside what is promised already."""
        promised = self.of(client)
        if promised + amount > deposit:
            raise NoFunds(
                f"account {client} has {deposit} octas on deposit, {promised} of them promised to running tasks, and "
                f"this task may cost {amount}; deposit more with: cactus-mesh deposit {amount + promised - deposit}"
            )

    def promise(self, client: Address, amount: int, deposit: int) -> None:
        """Raises as `check`."""
        self.check(client, amount, deposit)
        self._keep(client, self.of(client) + amount)

    def release(self, client: Address, amount: int) -> None:
        left = self.of(client) - amount
        assert left >= 0, "only what was promised is released"
        self._keep(client, left)

    def _keep(self, client: Address, amount: int) -> None:
        if amount:
            self._by_client[client] = amount
        else:
            self._by_client.pop(client, None)
