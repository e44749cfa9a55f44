"""The whole mesh on one machine: starts every role as its own process, shows a task through, and accounts for it.

The demo's own part is that of the people involved: it funds accounts, stakes, authorises and reads balances.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click
import trio

from cactus_mesh.adapters import identity_at
from cactus_mesh.clients import open_client
from cactus_mesh.control import ask_node
from cactus_mesh.errors import NodeNotRunning, ProcessFailed
from cactus_mesh.identity import Address, Identity
from cactus_mesh.processes import START_SECONDS, open_family
from cactus_mesh.terminal import octas, print_json, printable, stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.answer import Answer
    from cactus_mesh.client import Client
    from cactus_mesh.config import Config, Home
    from cactus_mesh.ports import Ledger
    from cactus_mesh.processes import Family

APT: Final = 100_000_000
FUNDS: Final = 200 * APT
LARGE_STAKE: Final = 100 * APT
SMALL_STAKE: Final = 1 * APT
DEPOSIT: Final = 10 * APT
MAX_PRICE: Final = APT // 10
"""More than a router would entrust to the small stake, so the second orchestrator works only under the first's."""
SECOND_PROMPT: Final = "What is a router?"
TOKENS: Final = 200
LISTEN: Final = "/ip4/127.0.0.1/tcp/0"


# --- the client's process ----------------------------------------------------------------------------------------


async def ask_both(home: Home, config: Config, prompt: str) -> None:
    """Ask *prompt* and, as soon as an orchestrator has taken that, `SECOND_PROMPT`; report both as lines of JSON."""
    async with open_client(home=home, config=config) as client, trio.open_nursery() as nursery:
        first = _ask(client, prompt)
        await first.accepted()
        for task, answer in enumerate((first, _ask(client, SECOND_PROMPT))):
            nursery.start_soon(_report, client, task, answer)


def _ask(client: Client, prompt: str) -> Answer:
    return client.chat(
        [{"role": "user", "content": prompt}], model="cactus-selftest", max_tokens=TOKENS, max_price=MAX_PRICE
    )


async def _report(client: Client, task: int, answer: Answer) -> None:
    async for piece in answer:
        print_json({"event": "text", "task": task, "text": piece})
    result = answer.result
    print_json({"event": "verified", "task": task, **result.summary(), "verdict": result.verdict.body.result})
    with trio.fail_after(START_SECONDS):
        split = await client.paid(result)
    print_json({"event": "paid", "task": task, **dataclasses.asdict(split), "paid_octas": split.paid})


# --- the show ----------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What one task came to."""

    summary: dict[str, Any] = field(default_factory=dict)
    money: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        keys = ("task_id", "text", "tokens", "orchestrator", "delegate", "receipt_verified")
        return {**{key: self.summary[key] for key in keys}, "paid_octas": self.money["paid_octas"]}


class Show:
    """Prints the demo for people, or nothing until its end for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._silent = as_json

    def line(self, text: str = "") -> None:
        if not self._silent:
            click.echo(text)

    def title(self, text: str) -> None:
        self.line("\n" + click.style(text, bold=True))

    def text(self, piece: str) -> None:
        if not self._silent:
            stream(piece)


ROLES: Final = ("router", "orchestrator-1", "orchestrator-2", "client")


async def run_demo(prompt: str, *, as_json: bool) -> None:
    """Bring everything up, ask, account, and take everything down again.  Raises `ProcessFailed`."""
    began = trio.current_time()
    show = Show(as_json=as_json)
    async with open_family(prefix="cactus-mesh-demo-") as family:
        report = await _perform(family, prompt, show)
        report["seconds"] = round(trio.current_time() - began, 2)
    if as_json:
        print_json(report)
    else:
        show.line(f"\n{report['seconds']:.1f} s; every process that the demo started has ended")
    if not report["conserved"]:
        raise ProcessFailed("money was made or lost; please report this with the output above")


async def _perform(family: Family, prompt: str, show: Show) -> dict[str, Any]:
    from cactus_mesh.ledger.client import open_ledger
    from cactus_mesh.ledger.dev import audit

    show.title("Bringing up a mesh on this machine, each part a process of its own")
    chain = await (await family.start("ledger", "devnet", "--port", "0", "--until-stdin-closes", "--json")).ready()
    url = chain["url"]
    show.line(f"  ledger          {url}, contract {chain['contract'][:10]}…")
    people = {name: identity_at(family.home(name)) for name in ROLES}
    async with open_ledger(url, Address(chain["contract"]), chain["chain_id"]) as ledger:
        bootstrap = await _start_nodes(family, ledger, url, people, show)
        treasury = Address(chain["admin"])
        before = await _balances(ledger, people, treasury, (await audit(url)).fees)
        outcomes = await _ask_and_show(family, url, bootstrap, prompt, people, show)
        books = await audit(url)
        after = await _balances(ledger, people, treasury, books.fees)
    _show_money(before, after, outcomes, books.conserved, show)
    return {
        "peers": 1 + len(ROLES),
        "tasks": [outcome.as_json() for outcome in outcomes],
        "conserved": books.conserved,
    }


async def _start_nodes(family: Family, ledger: Ledger, url: str, people: dict[str, Identity], show: Show) -> str:
    """Start every node, with its standing on the ledger; returns the bootstrap peer's address."""
    common = ("--ledger", url, "--listen", LISTEN, "--until-stdin-closes", "--json")
    first = await family.start("bootstrap", "run", "--role", "bootstrap", "--role", "relay", *common)
    await _found(family, ledger, url, people)
    bootstrap: str = (await first.ready())["addresses"][0]
    show.line(f"  bootstrap       {bootstrap}")
    joined = ("--bootstrap", bootstrap, *common)
    children = {
        "router": await family.start("router", "run", "--role", "router", *joined),
        "orchestrator-1": await family.start("orchestrator-1", "run", "--slots", "1", "--delegate", "2", *joined),
        "orchestrator-2": await family.start("orchestrator-2", "run", "--slots", "2", *joined),
    }
    for name, child in children.items():
        ready = await child.ready()
        stake = {"orchestrator-1": LARGE_STAKE, "orchestrator-2": SMALL_STAKE}.get(name)
        standing = "authorised on the ledger" if stake is None else f"stake {octas(stake)}, serves {ready['serves'][0]}"
        show.line(f"  {name:15} {ready['peer_id']}, {standing}")
    await _acquainted(family)
    return bootstrap


async def _found(family: Family, ledger: Ledger, url: str, people: dict[str, Identity]) -> None:
    """Give everybody coins; stake, authorise and deposit."""
    from cactus_mesh.identity import load_key_file
    from cactus_mesh.ledger.dev import fund

    for person in people.values():
        await fund(url, person.address, FUNDS)
    admin = load_key_file(family.home("ledger").devnet / "admin.key")
    router = people["router"]
    await ledger.register_server(router)
    await ledger.authorise_server(admin, router.address, expires_at=2**40, max_budget=FUNDS)
    for name, stake in (("orchestrator-1", LARGE_STAKE), ("orchestrator-2", SMALL_STAKE)):
        await ledger.register_orchestrator(people[name], people[name].public_key, stake)
    await ledger.deposit(people["client"], DEPOSIT)


async def _acquainted(family: Family) -> None:
    """Wait until the router knows both orchestrators, and the first knows the second."""
    with trio.move_on_after(START_SECONDS):
        for name, wanted in (("router", 2), ("orchestrator-1", 1)):
            while True:
                with contextlib.suppress(NodeNotRunning):
                    if (await ask_node(family.home(name).control_file, "status"))["orchestrators_known"] >= wanted:
                        break
                await trio.sleep(0.1)
        return
    raise ProcessFailed(f"the nodes did not find each other in {START_SECONDS:.0f} s")


async def _ask_and_show(
    family: Family, url: str, bootstrap: str, prompt: str, people: dict[str, Identity], show: Show
) -> list[Outcome]:
    """Run the client's process; the first answer streams to the screen, the second is shown after it."""
    client = await family.start("client", "demo-client", prompt, "--bootstrap", bootstrap, "--ledger", url)
    names: dict[str, str] = {person.peer_id: name for name, person in people.items()}
    outcomes = [Outcome(), Outcome()]
    held_back = ""
    show.title(f'The client asks "{printable(prompt)}"')
    while not all(outcome.money for outcome in outcomes):
        event = await client.line()
        if event is None or "error" in event:
            raise ProcessFailed(f"the client could not get its answers: {client.why(event)}")
        outcome = outcomes[event["task"]]
        match event.pop("event"), event.pop("task"):
            case "text", 0:
                show.text(event["text"])
            case "text", _:
                held_back += event["text"]
            case "verified", task:
                outcome.summary = event
                if task == 0:
                    show.line()
            case "paid", _:
                outcome.money = event
    _show_task(outcomes[0], names, show)
    show.title(f'Meanwhile it asked "{SECOND_PROMPT}", when the first orchestrator had no room left')
    show.text(held_back)
    show.line()
    _show_task(outcomes[1], names, show)
    return outcomes


def _show_task(outcome: Outcome, names: dict[str, str], show: Show) -> None:
    done, money = outcome.summary, outcome.money
    who = names[done["orchestrator"]]
    show.line(f"  served by       {who} {done['orchestrator']}")
    if done["delegate"]:
        show.line(f"  delegated to    {names[done['delegate']]} {done['delegate']}")
        show.line(f"  responsibility  client → router → {who} (liable) → {names[done['delegate']]} (worked)")
    show.line(f"  receipt         {done['tokens']} tokens, signatures, digests and claim verified: {done['verdict']}")
    parts = f"orchestrator {money['orchestrator']}, delegate {money['delegate']}, fee {money['fee']}"
    show.line(f"  paid            {octas(money['paid_octas'])} ({parts}); refunded {octas(money['refund'])}")


# --- money -------------------------------------------------------------------------------------------------------


async def _balances(ledger: Ledger, people: dict[str, Identity], treasury: Address, fees: int) -> dict[str, int]:
    """Everybody's coins and what the contract holds for them, together; and where the rest of the money goes."""
    found: dict[str, int] = {}
    for name, person in people.items():
        coins = await ledger.balance(person.address)
        client, operator = await ledger.client(person.address), await ledger.orchestrator(person.address)
        found[name] = coins + (client.deposit if client else 0) + (operator.stake if operator else 0)
    return {**found, "treasury": await ledger.balance(treasury), "ledger fees": fees}


def _show_money(
    before: dict[str, int], after: dict[str, int], outcomes: Sequence[Outcome], conserved: bool, show: Show
) -> None:
    show.title("Balances (coins, deposit and stake together), in octas")
    show.line(f"  {'':15} {'before':>18} {'after':>18} {'change':>10}")
    sums = {"all together": (sum(before.values()), sum(after.values()))}
    for name, (then, now) in ({name: (before[name], after[name]) for name in before} | sums).items():
        show.line(f"  {name:15} {then:18,} {now:18,} {now - then:+10,}")
    show.line("  (the router pays the ledger's fee for settling, which its share covers once batches are full)")
    paid = sum(outcome.money["paid_octas"] for outcome in outcomes)
    verdict = "not one octa was made or lost" if conserved else "MONEY WAS MADE OR LOST"
    show.line(f"  the client paid {octas(paid)} for both tasks; the ledger's audit: {verdict}")
