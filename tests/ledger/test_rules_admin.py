"""Administration, servers and the error table."""

from __future__ import annotations

from pathlib import Path

import pytest

from cactus_mesh.ledger import rules
from cactus_mesh.ledger.client import batch_columns
from cactus_mesh.ledger.rules import BOUNDS, CODES, codes
from cactus_mesh.ledger.rules.params import Params, values_of
from tests.ledger.world import ADMIN, CLIENT, COIN, DELEGATE, NOW, ORCHESTRATOR, ROUTER, STRANGER, World, settlement


def _values(**changes: int) -> list[int]:
    return list((values_of(Params()) | changes).values())


def test_administration_changes_hands_in_two_steps(world: World) -> None:
    world.do(ADMIN, "propose_admin", STRANGER.address)
    assert world.state.config.admin == ADMIN.address
    world.do(STRANGER, "accept_admin")
    assert world.state.config.admin == STRANGER.address
    assert world.refuses(ADMIN, "set_paused", True) == codes.NOT_ADMIN


def test_only_the_proposed_account_may_accept(world: World) -> None:
    assert world.refuses(STRANGER, "accept_admin") == codes.NOT_PENDING_ADMIN
    world.do(ADMIN, "propose_admin", CLIENT.address)
    assert world.refuses(STRANGER, "accept_admin") == codes.NOT_PENDING_ADMIN


@pytest.mark.parametrize(
    ("entry", "arguments"),
    [
        ("propose_admin", (STRANGER.address,)),
        ("set_treasury", (STRANGER.address,)),
        ("set_params", tuple(_values())),
        ("set_paused", (True,)),
        ("authorize_server", (ROUTER.address, NOW + 1, 1)),
        ("revoke_server", (ROUTER.address,)),
    ],
)
def test_nobody_but_the_administrator_governs(world: World, entry: str, arguments: tuple[object, ...]) -> None:
    assert world.refuses(STRANGER, entry, *arguments) == codes.NOT_ADMIN


@pytest.mark.parametrize("name", list(BOUNDS))
def test_every_parameter_is_bounded_on_both_sides(world: World, name: str) -> None:
    bound = BOUNDS[name]
    for outside in ({bound.low - 1} if bound.low else set()) | {bound.high + 1}:
        assert world.refuses(ADMIN, "set_params", *_values(**{name: outside})) == codes.PARAM_OUT_OF_BOUNDS


def test_exits_may_not_become_faster_than_the_work_they_could_escape(world: World) -> None:
    hasty = _values(unbonding_seconds=Params().longest_task_seconds + Params().dispute_window_seconds - 1)
    assert world.refuses(ADMIN, "set_params", *hasty) == codes.PARAM_OUT_OF_BOUNDS
    hasty = _values(withdrawal_seconds=Params().longest_task_seconds - 1)
    assert world.refuses(ADMIN, "set_params", *hasty) == codes.PARAM_OUT_OF_BOUNDS


def test_new_parameters_hold_from_then_on(world: World) -> None:
    world.do(ADMIN, "set_params", *_values(min_stake=2 * COIN, fee_bps=0))
    assert world.state.params.min_stake == 2 * COIN
    assert world.refuses(ROUTER, "create_task", *world.create_arguments()) == codes.NOT_STAKED


def test_a_pause_stops_what_comes_in(world: World) -> None:
    world.do(ADMIN, "set_paused", True)
    for signer, entry, arguments in (
        (STRANGER, "register_server", ()),
        (STRANGER, "register_orchestrator", (STRANGER.public_key, b"", COIN)),
        (ORCHESTRATOR, "add_stake", (ORCHESTRATOR.address, 1)),
        (STRANGER, "register_client", (STRANGER.public_key,)),
        (CLIENT, "deposit", (CLIENT.public_key, 1)),
        (ROUTER, "create_task", world.create_arguments()),
    ):
        assert world.refuses(signer, entry, *arguments) == codes.PAUSED


def test_a_pause_stops_nothing_that_goes_out(world: World) -> None:
    for number in (1, 2, 3):
        world.create(number)
    world.do(ORCHESTRATOR, "request_unstake", ORCHESTRATOR.address, 1)
    world.do(CLIENT, "request_withdrawal", 1)
    world.do(ADMIN, "set_paused", True)
    world.do(ROUTER, "complete_task", *world.complete_arguments(1))
    world.do(ROUTER, "fail_task", *world.complete_arguments(2)[:2])
    world.settle(settlement(4))
    world.now += 8 * 86_400
    world.do(STRANGER, "timeout_task", *world.complete_arguments(3)[:2])
    world.do(ORCHESTRATOR, "withdraw_stake", ORCHESTRATOR.address)
    world.do(CLIENT, "withdraw")


def test_a_server_registers_once_and_waits_for_its_authorisation(world: World) -> None:
    world.do(STRANGER, "register_server")
    assert world.refuses(STRANGER, "register_server") == codes.SERVER_EXISTS
    assert world.refuses(STRANGER, "create_task", *world.create_arguments()) == codes.SERVER_NOT_AUTHORISED
    assert world.refuses(CLIENT, "create_task", *world.create_arguments()) == codes.NO_SERVER


def test_an_authorisation_needs_a_registered_server_and_a_future(world: World) -> None:
    assert world.refuses(ADMIN, "authorize_server", STRANGER.address, NOW + 1, 1) == codes.NO_SERVER
    assert world.refuses(ADMIN, "authorize_server", ROUTER.address, NOW, 1) == codes.BAD_EXPIRY
    assert world.refuses(ADMIN, "revoke_server", STRANGER.address) == codes.NO_SERVER


@pytest.mark.parametrize("entry", ["create_task", "reassign_task", "complete_task", "fail_task", "settle_batch"])
def test_an_expired_or_revoked_server_does_nothing(world: World, entry: str) -> None:
    world.create(2)
    arguments = {
        "create_task": world.create_arguments(),
        "reassign_task": (*world.complete_arguments(2)[:2], DELEGATE.address),
        "complete_task": world.complete_arguments(2),
        "fail_task": world.complete_arguments(2)[:2],
        "settle_batch": batch_columns([settlement(3)]),
    }[entry]
    world.do(ADMIN, "authorize_server", ROUTER.address, world.now + 10, COIN)
    world.now += 10
    assert world.refuses(ROUTER, entry, *arguments) == codes.SERVER_EXPIRED
    world.do(ADMIN, "revoke_server", ROUTER.address)
    assert world.refuses(ROUTER, entry, *arguments) == codes.SERVER_NOT_AUTHORISED


def test_an_authorisation_may_be_renewed_after_a_revocation(world: World) -> None:
    world.do(ADMIN, "revoke_server", ROUTER.address)
    world.do(ADMIN, "authorize_server", ROUTER.address, NOW + 100, COIN)
    world.create()


def test_the_treasury_can_be_changed(world: World) -> None:
    world.do(ADMIN, "set_treasury", STRANGER.address)
    before = world.coins(STRANGER)
    world.settle(settlement())
    assert world.coins(STRANGER) > before


def test_each_cause_has_one_number_and_one_name() -> None:
    assert len({code.name for code in CODES.values()}) == len(CODES)
    assert len({number & 0xFFFF for number in CODES}) == len(CODES)
    assert all(code.meaning and code.advice for code in CODES.values())


def test_a_state_is_as_new_after_genesis() -> None:
    state = rules.init(5, ADMIN.address, ADMIN.address)
    assert rules.conserved(state)
    assert (state.config.admin, state.config.treasury, state.config.paused) == (ADMIN.address, ADMIN.address, False)


def test_every_error_code_is_provoked_by_a_test() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_rules_*.py"))
    constants = {name for name, value in vars(codes).items() if isinstance(value, codes.Code)}
    assert {name for name in constants if f"codes.{name}" not in text} == set()
    assert len(constants) == len(CODES)
