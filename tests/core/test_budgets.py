"""What a router has promised of its clients' deposits."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import data, integers, sampled_from

from cactus_mesh.core.budgets import Promised
from cactus_mesh.errors import NoFunds


def test_promises_add_up_to_the_deposit_and_no_further():
    promised = Promised()
    promised.promise("0xa", 60, deposit=100)
    promised.promise("0xa", 40, deposit=100)
    with pytest.raises(NoFunds, match=r"100 octas on deposit, 100 of them promised.*cactus-mesh deposit 1$"):
        promised.promise("0xa", 1, deposit=100)
    assert promised.of("0xa") == 100


def test_what_is_released_can_be_promised_again():
    promised = Promised()
    promised.promise("0xa", 60, deposit=100)
    promised.release("0xa", 60)
    promised.promise("0xa", 100, deposit=100)


def test_one_clients_promises_do_not_bind_another():
    promised = Promised()
    promised.promise("0xa", 100, deposit=100)
    promised.promise("0xb", 100, deposit=100)


def test_free_tasks_at_the_same_time_are_promised_and_released():
    promised = Promised()
    for _ in range(2):
        promised.promise("0xa", 0, deposit=0)
    for _ in range(2):
        promised.release("0xa", 0)
    assert promised.of("0xa") == 0


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes when: never more than the deposit, and nobody is remembered who has nothing promised."""

    DEPOSIT = 100

    def __init__(self) -> None:
        super().__init__()
        self.promised = Promised()
        self.open: list[tuple[str, int]] = []

    @rule(client=sampled_from(["0xa", "0xb"]), amount=integers(0, 120))
    def promise(self, client, amount):
        before = self.total(client)
        try:
            self.promised.promise(client, amount, self.DEPOSIT)
        except NoFunds:
            assert before + amount > self.DEPOSIT
        else:
            self.open.append((client, amount))

    @rule(which=data())
    def release(self, which):
        if self.open:
            self.promised.release(*self.open.pop(which.draw(integers(0, len(self.open) - 1))))

    def total(self, client):
        return sum(amount for who, amount in self.open if who == client)

    @invariant()
    def is_what_is_open(self):
        for client in ("0xa", "0xb"):
            assert self.promised.of(client) == self.total(client) <= self.DEPOSIT
        assert all(self.promised._by_client.values())


AnyOrder.TestCase.settings = settings(max_examples=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
