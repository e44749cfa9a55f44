"""From measurements to verdicts: what `cactus-mesh doctor` thinks of the ways to others, and of theirs to us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from cactus_mesh.core.checkup import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.checkup import Verdict
    from cactus_mesh.errors import MeshError


@dataclass(frozen=True, slots=True)
class Attempt:
    """One bootstrap address.  *tcp_ms* None: no connection; *rtt_ms* None: no hello.  *problem*: where it stopped."""

    address: str
    tcp_ms: float | None
    rtt_ms: float | None
    problem: str = ""
    code: str = ""

    @property
    def blames_a_clock(self) -> bool:
        """Whether the peer, or we, refused a message for its times; what crossed the wire is the text."""
        return "check both clocks" in self.problem

    def words(self) -> str:
        if self.rtt_ms is not None:
            tcp = "" if self.tcp_ms is None else f"tcp {self.tcp_ms:.0f} ms, "
            return f"{self.address}\n  {tcp}noise, hello, ping {self.rtt_ms:.0f} ms"
        done = "" if self.tcp_ms is None else f"tcp {self.tcp_ms:.0f} ms, then: "
        return f"{self.address}\n  {done}{self.problem}"


def judge_bootstrap(
    attempts: Sequence[Attempt], problem: MeshError | None, *, begins: bool, remembered: int, connected: int
) -> Finding:
    """*begins*: this node is a bootstrap peer itself; *remembered* peers may do instead; *connected* ones do."""
    if problem is not None:
        what, _, to_do = str(problem).partition("; ")
        return Finding("bootstrap", "fail", what, to_do)
    if not attempts:
        return _judge_no_bootstrap(begins=begins, remembered=remembered, connected=connected)
    measured = "\n".join(attempt.words() for attempt in attempts)
    good = [attempt for attempt in attempts if attempt.rtt_ms is not None]
    bad = [attempt for attempt in attempts if attempt.rtt_ms is None]
    malformed = [attempt for attempt in bad if attempt.code == "address.malformed"]
    if malformed:  # a node would not even start
        return Finding("bootstrap", "fail", measured, _bootstrap_advice(malformed[0]))
    if not good:
        return Finding("bootstrap", "warn" if connected else "fail", measured, _bootstrap_advice(bad[0]))
    if bad:
        return Finding("bootstrap", "warn", measured, f"one way in is enough; {_bootstrap_advice(bad[0])}")
    return Finding("bootstrap", "pass", measured)


def _judge_no_bootstrap(*, begins: bool, remembered: int, connected: int) -> Finding:
    if begins:
        return Finding("bootstrap", "pass", "not needed: this node is one")
    if connected:
        return Finding("bootstrap", "pass", f"none configured, and not needed: {connected} peers are connected")
    if remembered:
        return Finding(
            "bootstrap", "warn", f"none configured; {remembered} peers are remembered", "name one with --bootstrap"
        )
    return Finding(
        "bootstrap",
        "fail",
        "none is known",
        "name one: --bootstrap /ip4/…/tcp/…/p2p/…; or begin a network: cactus-mesh run --role bootstrap",
    )


def _bootstrap_advice(attempt: Attempt) -> str:
    match attempt.code:
        case "peer.wrong_network":
            return "use a bootstrap peer of your own network, or name the right --network"
        case "address.malformed":
            return "write it like /ip4/203.0.113.7/tcp/4101/p2p/12D3KooW…"
    if attempt.blames_a_clock:
        return "set the clock; see clock above"
    if "another peer" in attempt.problem:
        return "get the address again: the peer there has another key now"
    if attempt.tcp_ms is not None:
        return "check that a Cactus Mesh node listens there, and not another service"
    if "refused" in attempt.problem:
        return "check that it runs there, and the port"
    return "check the address, and the firewalls on the way (outgoing TCP)"


# --- how others reach us -----------------------------------------------------------------------------------------


class StepView(msgspec.Struct, frozen=True):
    """One rung of the ladder, as in a node's status."""

    name: str
    state: str
    detail: str
    seconds: float


class View(msgspec.Struct, frozen=True):
    """What a node's status says of its network (see `snapshot.network_snapshot`)."""

    peers: int
    reachability: str
    nat: str
    port_preserving: bool | None
    observed: tuple[str, ...]
    steps: tuple[StepView, ...]
    relays: tuple[str, ...]
    failed_dials: dict[str, str]

    def step(self, name: str) -> StepView | None:
        return next((step for step in self.steps if step.name == name), None)

    def works(self, name: str) -> bool:
        step = self.step(name)
        return step is not None and step.state == "works"

    def detail(self, name: str) -> str:
        step = self.step(name)
        return "" if step is None else step.detail


def judge_reachability(view: View) -> Finding:
    seen = f"; others see {', '.join(view.observed)}" if view.observed else ""
    match view.reachability:
        case "public":
            return Finding("reachable", "pass", f"directly, at a public address{seen}")
        case "mapped":
            return Finding("reachable", "pass", f"directly, at a port that the gateway forwards{seen}")
        case "private" if view.relays:
            return Finding("reachable", "pass", f"through {len(view.relays)} relays{seen}")
        case "private":
            return Finding("reachable", "fail", f"by nobody: neither directly nor through a relay{seen}", _RELAY_ADVICE)
    if not view.peers:
        return _alone("reachable")
    if view.works("public"):
        return Finding("reachable", "pass", view.detail("public"))
    return Finding(
        "reachable",
        "warn",
        f"not known: no peer elsewhere has tried yet{seen}",
        "run a node here, and ask again in a minute",
    )


_RELAY_ADVICE: Final = "join a network with a relay (a public peer with --role relay), or forward the listen port"


def _alone(check: str) -> Finding:
    return Finding(check, "warn", "not known: no peer is connected", "correct what fails above, and run doctor again")


def judge_nat(view: View) -> Finding:
    ports = {True: ", keeps port numbers", False: ", changes port numbers", None: ""}[view.port_preserving]
    match view.nat:
        case "none":
            return Finding("nat", "pass", "none: others see this machine's own address")
        case "endpoint-independent":
            return Finding("nat", "pass", f"endpoint-independent{ports}: holes can be punched")
        case "symmetric":
            return Finding(
                "nat",
                "warn",
                f"symmetric{ports}: another port for every peer, so that no hole can be punched",
                "switch on UPnP or NAT-PMP in the router, or forward the listen port; else relays carry everything",
            )
    if not view.peers:
        return _alone("nat")
    if view.works("public"):
        return Finding("nat", "pass", "none on the way to the peers that are connected")
    return Finding(
        "nat",
        "warn",
        f"not known: it takes two peers elsewhere that see this machine; connected are {view.peers}",
        "ask again when more peers are connected",
    )


def judge_mapping(view: View) -> Finding:
    return _judge_step(
        "mapping",
        view,
        "mapped",
        needed=view.reachability not in ("public", "mapped"),
        advice="switch on UPnP or NAT-PMP in the router, or forward the listen port by hand",
    )


def judge_punch(view: View, tested: str, *, succeeded: bool | None) -> Finding:
    """*tested* are the words about a test with a willing peer; *succeeded* None: there was none."""
    if succeeded is True:
        return Finding("hole punch", "pass", tested)
    if succeeded is False:
        return Finding("hole punch", "warn", tested, "nothing: relays carry such connections; see nat above")
    if view.reachability in ("public", "mapped"):
        return Finding("hole punch", "pass", "not needed: others reach this machine directly")
    if view.nat == "symmetric":
        return Finding("hole punch", "warn", "not possible behind a symmetric NAT", "nothing: relays carry the rest")
    return _judge_step(
        "hole punch",
        view,
        "punch",
        needed=True,
        advice="nothing: relays carry such connections; see nat above",
        otherwise=tested,
    )


def judge_relay(view: View) -> Finding:
    if view.relays:
        ends = ", ".join(f"…{relay[-8:]}" for relay in view.relays)
        return Finding("relay", "pass", f"reserved at {len(view.relays)}: {ends}")
    if view.reachability in ("public", "mapped") or view.works("public"):
        return Finding("relay", "pass", "not needed: others reach this machine directly")
    detail = f": {view.detail('relayed')}" if view.detail("relayed") else ""
    if not view.peers:
        return _alone("relay")
    verdict: Verdict = "fail" if view.reachability == "private" else "warn"
    return Finding("relay", verdict, f"no reservation{detail}", _RELAY_ADVICE)


def _judge_step(
    check: str, view: View, name: str, *, needed: bool, advice: str, otherwise: str = "not tried yet"
) -> Finding:
    step = view.step(name)
    if not needed:
        return Finding(check, "pass", "not needed: others reach this machine directly")
    if step is None and not view.peers:
        return _alone(check)
    if step is None:
        return Finding(check, "warn", otherwise, "ask again when the node has been connected for a minute")
    measured = f"{step.detail} ({step.seconds:.1f} s)" if step.detail else f"{step.state} ({step.seconds:.1f} s)"
    match step.state:
        case "works":
            return Finding(check, "pass", measured)
        case "not needed":
            return Finding(check, "pass", f"not needed: {step.detail}" if step.detail else "not needed")
        case "trying":
            return Finding(check, "warn", f"under way: {measured}", "ask again in a minute")
    return Finding(check, "warn", measured, advice)
