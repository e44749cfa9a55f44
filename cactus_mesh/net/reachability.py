"""Finds out how this machine can be reached, keeps looking, and says so: drives `core.reachability` with real evidence.

Evidence is where peers see us, whether those that we ask could dial back, and who came unasked.  What it decides: which
of our own addresses are worth telling, whether relays are wanted, whether the gateway should forward a port.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from cactus_mesh.core.reachability import (
    WEAK_SECONDS,
    DialBacks,
    Endpoint,
    Ladder,
    NatView,
    Observation,
    Verdict,
    best,
    nat_of,
)
from cactus_mesh.net.addresses import Scope, parse_address, reachable_at, scope_of
from cactus_mesh.net.connections import is_relayed, remote, scope_of_connection
from cactus_mesh.net.dialback import MAX_ENDPOINTS, endpoint_of
from cactus_mesh.net.portmap import keep_mapping
from cactus_mesh.net.punch import View

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from cactus_mesh.core.reachability import Reach, Step, StepName, StepState
    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.connections import Connections
    from cactus_mesh.net.dialback import DialBack
    from cactus_mesh.net.machine import Machine
    from cactus_mesh.net.settings import NetworkSettings

ASKED_AT_ONCE: Final = 3
"""Peers in one round: two that agree, and one against whom they stand."""
PATIENCE_SECONDS: Final = 1.5
"""For evidence, after which an undecided machine takes care of itself as a private one does."""
SETTLE_SECONDS: Final = 0.05
"""Between two looks at all connections, however fast they come and go."""
SILENT_SECONDS: Final = 60.0
"""Until a peer that gave no answer is asked again."""

log = logging.getLogger(__name__)


class Reachability:
    """*relays* are those at which we hold reservations, *dialled* the hosts that we have dialled; *changed* is called
    when what others should know has changed."""

    relays: Callable[[], Sequence[PeerId]]

    def __init__(
        self,
        settings: NetworkSettings,
        machine: Machine,
        connections: Connections,
        dial_back: DialBack,
        dialled: Container[str],
        changed: Callable[[], None],
    ) -> None:
        self.nat = NatView()
        self._settings = settings
        self._machine = machine
        self._connections = connections
        self._dial_back = dial_back
        self._dialled = dialled
        self._changed = changed
        self._answers = DialBacks()
        self._asking: set[str] = set()
        self._silent: dict[str, float] = {}
        self._scope = Scope.NOWHERE
        self._since = trio.current_time()
        self._mapping: Endpoint | None = None
        self._mapping_words = ""
        self._mapping_scope: trio.CancelScope | None = None
        self._ladder = Ladder()
        self._decided: object = None

    # --- what it has found out -----------------------------------------------------------------------------------

    @property
    def reach(self) -> Reach:
        verdict, endpoint = self._verdict()
        if verdict.state == "open" and self._scope is Scope.GLOBAL:
            return "mapped" if endpoint == self._mapping else "public"
        return "private" if verdict.state == "closed" or not self._machine.bound() else "unknown"

    def observed(self) -> tuple[str, ...]:
        """Endpoints at which others see what we dial from, each once."""
        return tuple(dict.fromkeys(str(seen.endpoint) for seen in self._observations()))

    def view(self) -> View:
        """How others see the port that we listen on, for those who want to meet us there."""
        if self.reach in ("public", "mapped"):
            judged = self._judged(self._candidates()).items()
            return View(
                self.nat.kind, tuple(str(each) for each, verdict in judged if verdict.state == "open"), open=True
            )
        own = [each for each in self._candidates() if each.host in self._machine.own()]
        seen = [self.nat.mapped] if self.nat.mapped is not None else own
        return View(self.nat.kind, tuple(map(str, seen)))

    @property
    def wants_relays(self) -> bool:
        if self._settings.relays != "auto":
            return self._settings.relays == "always"
        verdict, _ = self._verdict()
        return verdict.state == "closed" or (verdict.state == "unknown" and self._patience_is_over)

    @property
    def can_be_dialled(self) -> bool:
        """As far as is known, after some patience."""
        verdict, _ = self._verdict()
        return verdict.state == "open" or (
            verdict.state == "unknown" and self._patience_is_over and bool(self._machine.bound())
        )

    @property
    def _patience_is_over(self) -> bool:
        return self._scope is not Scope.NOWHERE and trio.current_time() >= self._since + PATIENCE_SECONDS

    def addresses(self) -> list[Address]:
        """Our own that are worth telling: not those where nobody gets through."""
        now = trio.current_time()
        own = reachable_at(self._machine.bound(), self._machine.hosts())
        open_ = [
            address
            for address in own
            if self._answers.verdict(Endpoint(address.host, address.port), now).state != "closed"
        ]
        known = {address.endpoint for address in open_}
        others = [each for each in self._candidates() if str(each) not in known]
        found = [each for each in others if self._answers.verdict(each, now).state == "open"]
        return [*(parse_address(str(endpoint)) for endpoint in found), *open_]

    def _verdict(self) -> tuple[Verdict, Endpoint | None]:
        """On the best of our endpoints of the family that counts, as far out as we are known."""
        judged = self._judged(self._candidates())
        verdict = best(judged.values())
        return verdict, next((each for each, other in judged.items() if other is verdict), None)

    def _judged(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, Verdict]:
        now, family = trio.current_time(), self._family()
        return {each: self._answers.verdict(each, now) for each in endpoints if each.family == family}

    def _family(self) -> int:
        """IPv4 where anybody sees us there: those who have nothing else must reach us too."""
        families = {6 if ":" in remote(conn).host else 4 for conn in self._witnesses()}
        return 6 if families == {6} else 4

    # --- evidence ------------------------------------------------------------------------------------------------

    def _witnesses(self) -> list[MeshConn]:
        """Direct connections of the widest scope, whose peers have said where they see us."""
        direct = [conn for conn in self._connections.all() if conn.about is not None and not is_relayed(conn)]
        return [conn for conn in direct if scope_of_connection(conn) is self._scope]

    def _observations(self) -> Iterable[Observation]:
        for conn in self._witnesses():
            seen = _observed(conn)
            if seen is not None and not conn.inbound and conn.local_port is not None:
                yield Observation(remote(conn).host, seen, conn.local_port)

    def _look(self) -> None:
        """Take in what the connections say now."""
        direct = [conn for conn in self._connections.all() if conn.about is not None and not is_relayed(conn)]
        scope = max(map(scope_of_connection, direct), default=self._scope)
        if scope > self._scope:
            self._scope, self._since = scope, trio.current_time()
        ports = {address.port for address in self._machine.bound()}
        self.nat = nat_of(self._observations(), self._machine.own(), ports)
        for conn in self._witnesses():
            if self._came_unasked(conn):
                seen = _observed(conn)
                assert seen is not None, "checked there"
                if remote(conn).host not in self._answers.asked(seen):
                    self._answers.note(seen, remote(conn).host, True, "", trio.current_time())

    def _came_unasked(self, conn: MeshConn) -> bool:
        """Whether *conn* shows that strangers reach us: nothing of ours has opened the way for it."""
        seen = _observed(conn)
        host = remote(conn).host
        return (
            conn.inbound
            and seen is not None
            and (seen.host, seen.port) == (conn.local_host, conn.local_port)
            and host not in self._dialled
            and host != seen.host
            and len(self._connections.of(conn.session.peer)) == 1
        )

    def _candidates(self, *, mapped: bool = True) -> list[Endpoint]:
        """Endpoints that we may be reached at by those who are as far away as anybody we know; *mapped*: with what the
        gateway forwards to us."""
        ports = {4: 0, 6: 0} | {6 if address.family == "ip6" else 4: address.port for address in self._machine.bound()}
        hosts = [host for host in self._machine.hosts() if scope_of(host) is self._scope]
        hosts += [
            address.host for address in self._machine.bound() if not address.wildcard and address.host not in hosts
        ]
        hosts += [host for host in self._agreed_hosts() if host not in hosts]
        found = [Endpoint(host, ports[6 if ":" in host else 4]) for host in hosts if scope_of(host) is self._scope]
        found += [self.nat.mapped] if self.nat.mapped is not None else []
        found += [self._mapping] if mapped and self._mapping is not None else []
        return [each for each in dict.fromkeys(found) if each.port and (mapped or each != self._mapping)]

    def _agreed_hosts(self) -> list[str]:
        """Addresses that are not this machine's, at which several see us; or the one who does, when it is alone."""
        seen: dict[str, set[str]] = {}
        for conn in self._witnesses():
            endpoint = _observed(conn)
            if endpoint is not None:
                seen.setdefault(endpoint.host, set()).add(remote(conn).host)
        everybody = set().union(*seen.values()) if seen else set()
        return [host for host, by in seen.items() if len(by) > 1 or len(everybody) == 1]

    # --- asking --------------------------------------------------------------------------------------------------

    async def keep(self) -> NoReturn:
        """Ask whenever there is something to ask."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_mapping)
            while True:
                change = self._connections.next_change()
                self._look()
                for conn, endpoints in self._questions():
                    self._asking.add(remote(conn).host)
                    nursery.start_soon(self._ask, conn, endpoints)
                self._report()
                with trio.move_on_at(self._next_look()):
                    await change.wait()
                await trio.sleep(SETTLE_SECONDS)

    def _questions(self) -> list[tuple[MeshConn, list[Endpoint]]]:
        """Whom to ask now, and about what: those whom we dialled first, at most one at an address."""
        now = trio.current_time()
        found: dict[str, tuple[MeshConn, list[Endpoint]]] = {}
        for conn in sorted(self._witnesses(), key=lambda conn: conn.inbound):
            host, seen = remote(conn).host, _observed(conn)
            if seen is None or self._silent.get(host, now) > now or host in self._asking:
                continue
            if host == seen.host and self._scope is not Scope.LOOPBACK:
                continue  # it stands behind the same NAT
            wanted = [each for each in self._candidates() if each.host == seen.host and self._doubts(each, host, now)]
            if wanted and host not in found:
                found[host] = (conn, wanted[:MAX_ENDPOINTS])
        return list(found.values())[: max(ASKED_AT_ONCE - len(self._asking), 0)]

    def _doubts(self, endpoint: Endpoint, host: str, now: float) -> bool:
        """Whether the peer at *host* should be asked about *endpoint*."""
        verdict = self._answers.verdict(endpoint, now)
        if verdict.firm and now < verdict.again_at:
            return False
        return now >= self._answers.asked(endpoint).get(host, float("-inf")) + WEAK_SECONDS

    def _next_look(self) -> float:
        now = trio.current_time()
        due = [self._since + PATIENCE_SECONDS, *self._silent.values()]
        for endpoint in self._candidates():
            verdict = self._answers.verdict(endpoint, now)
            asked = self._answers.asked(endpoint).values()
            due += [verdict.again_at] if verdict.firm else [at + WEAK_SECONDS for at in asked]
        return min((at for at in due if at > now), default=float("inf"))

    async def _ask(self, conn: MeshConn, endpoints: Sequence[Endpoint]) -> None:
        host = remote(conn).host
        answers = await self._dial_back.ask(conn, endpoints)
        now = trio.current_time()
        self._asking.discard(host)
        self._silent = {other: until for other, until in self._silent.items() if until > now}
        if answers is None:
            self._silent[host] = now + SILENT_SECONDS
        else:
            for endpoint, (reached, why) in zip(endpoints, answers, strict=True):
                self._answers.note(endpoint, host, reached, why, now)
        self._connections.announce_change()

    def moved(self) -> None:
        """The machine is in another network, or may be: nothing that was found out holds any more."""
        self._answers.forget()
        self._silent.clear()
        self._scope, self._since = Scope.NOWHERE, trio.current_time()
        if self._mapping_scope is not None:
            self._mapping_scope.cancel()
        self._connections.announce_change()

    # --- the gateway ---------------------------------------------------------------------------------------------

    async def _keep_mapping(self) -> NoReturn:
        """Have the gateway forward our port while nothing better is known."""
        while True:
            while not self._wants_mapping:
                await self._connections.next_change().wait()
            with trio.CancelScope() as self._mapping_scope:
                await keep_mapping(self._mappable_port(), self._mapped)
            self._mapping, self._mapping_words = None, ""

    def _mapped(self, endpoint: str | None, words: str) -> None:
        self._mapping, self._mapping_words = endpoint_of(endpoint) if endpoint else None, words
        self._connections.announce_change()

    def _mappable_port(self) -> int:
        """Of a listener that a gateway can forward to; 0 when there is none."""
        found = [each for each in self._machine.bound() if each.family == "ip4" and not each.loopback]
        return found[0].port if found else 0

    @property
    def _wants_mapping(self) -> bool:
        if self._scope is not Scope.GLOBAL or self.nat.kind == "none" or not self._mappable_port():
            return False
        without = best(self._judged(self._candidates(mapped=False)).values())
        return without.state == "closed" or (without.state == "unknown" and self._patience_is_over)

    # --- saying so -----------------------------------------------------------------------------------------------

    def steps(self) -> tuple[Step, ...]:
        return self._ladder.steps(trio.current_time())

    def step(self, name: StepName, state: StepState, detail: str) -> None:
        """Note how a rung of the ladder stands; news are logged."""
        if self._ladder.note(name, state, detail, trio.current_time(), time.time()):
            (now,) = (step for step in self.steps() if step.name == name)
            details = {"step": name, "state": state, "detail": detail, "seconds": now.seconds}
            log.info("reachability", extra=details)

    def _report(self) -> None:
        """Note the steps, and let others act on what has changed."""
        verdict, endpoint = self._verdict()
        self.step("public", *self._public(verdict, endpoint))
        self.step("mapped", *self._by_gateway(verdict, endpoint))
        self.step("relayed", *self._by_relays())
        if self._mapping_scope is not None and not self._wants_mapping:
            self._mapping_scope.cancel()
        decided = (self.addresses(), self.wants_relays, self._wants_mapping, self.reach, self.can_be_dialled, self.nat)
        if decided != self._decided:
            self._decided = decided
            self._changed()

    def _public(self, verdict: Verdict, endpoint: Endpoint | None) -> tuple[StepState, str]:
        if not self._machine.bound():
            return "failed", "this node listens nowhere"
        if endpoint is not None and endpoint == self._mapping:
            return "failed", "only through the port that the gateway forwards"
        if verdict.state == "open":
            beyond = "" if self._scope is Scope.GLOBAL else "; nobody outside this network is connected"
            return "works", verdict.why + beyond
        if verdict.state == "closed":
            return "failed", verdict.why
        if self._asking:
            return "trying", f"asking {len(self._asking)} peer{'s' * (len(self._asking) > 1)} to dial back"
        return "trying", "no peer that could dial back is connected yet"

    def _by_gateway(self, verdict: Verdict, endpoint: Endpoint | None) -> tuple[StepState, str]:
        if self._mapping is not None:
            if endpoint == self._mapping and verdict.state == "open":
                return "works", f"{self._mapping_words}; {verdict.why}"
            mapping = self._answers.verdict(self._mapping, trio.current_time())
            why = mapping.why or f"nobody has tried {self._mapping} yet"
            return "failed" if mapping.state == "closed" else "trying", f"{self._mapping_words}; {why}"
        if not self._wants_mapping:
            return "not needed", "there is no NAT" if self.nat.kind == "none" else ""
        return ("failed", self._mapping_words) if self._mapping_words else ("trying", "asking the gateway")

    def _by_relays(self) -> tuple[StepState, str]:
        held = len(self.relays())
        if held:
            return "works", f"reserved at {held} relay{'s' * (held > 1)}"
        return ("trying", "no relay has taken us in yet") if self.wants_relays else ("not needed", "")


def _observed(conn: MeshConn) -> Endpoint | None:
    """Where the peer of *conn* says that it sees us; None when it cannot be true."""
    seen = endpoint_of(conn.about.observed) if conn.about is not None else None
    if seen is None or seen.family != (6 if ":" in remote(conn).host else 4):
        return None
    return seen if scope_of(seen.host) is scope_of_connection(conn) else None
