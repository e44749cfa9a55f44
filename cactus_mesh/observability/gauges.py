"""What a node knows of itself, read when somebody looks: nothing is kept for it, and no task runs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from cactus_mesh import __version__
from cactus_mesh.clock import wall_clock
from cactus_mesh.core.holdings import holdings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from cactus_mesh.node import Node
    from cactus_mesh.orchestrator import Orchestrator
    from cactus_mesh.ports import Engine
    from cactus_mesh.router import Router

REACHES: Final = ("unknown", "public", "mapped", "private")
PEER_ROLES: Final = ("bootstrap", "client", "orchestrator", "relay", "router")
PATHS: Final = ("direct", "relayed")
VERDICTS: Final = ("pass", "fail", "inconclusive", "missed")
SETTLEMENTS: Final = ("paid", "skipped", "refused")
PARTIES: Final = ("orchestrator", "delegate", "fee")
HOLDINGS: Final = ("coins", "deposit", "escrow", "withdrawal", "stake", "unbonding", "bond")


class NodeCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def describe(self) -> list[Metric]:
        return []  # names are checked by a test; collecting here would ask a node that is not ready yet

    def collect(self) -> Iterator[Metric]:
        node = self._node
        yield _gauge("cactus_mesh_start_time_seconds", "When this node started, in Unix seconds.", node.started_at)
        yield _labelled(
            "cactus_mesh_build_info", "Always 1; the version stands in the label.", "version", {__version__: 1}
        )
        yield _labelled(
            "cactus_mesh_role", "Whether this node has the role.", "role", dict.fromkeys(node.config.roles, 1)
        )
        yield from self._network()
        if node.router is not None or node.config.serving.delegated_slots:
            yield _gauge(
                "cactus_mesh_orchestrators_known", "Orchestrators with a valid advert.", len(node.directory.book)
            )
        if node.router is not None:
            yield from _router(node.router)
        if node.orchestrator is not None:
            yield from _orchestrator(node.orchestrator)
        yield from self._money()

    def _network(self) -> Iterator[Metric]:
        status, peers = self._node.network.status(), self._node.network.peers()
        paths = Counter("relayed" if peer.relayed else "direct" for peer in peers)
        yield _labelled("cactus_mesh_connected_peers", "Connected peers, by path.", "path", _of(PATHS, paths))
        family = GaugeMetricFamily(
            "cactus_mesh_peers", "Connected peers by role and path; one of several roles counts in each.",
            labels=["role", "path"],
        )  # fmt: skip
        roles = Counter((role, "relayed" if peer.relayed else "direct") for peer in peers for role in peer.roles)
        for role in PEER_ROLES:
            for path in PATHS:
                family.add_metric([role, path], roles[role, path])
        yield family
        yield _gauge("cactus_mesh_known_peers", "Peers whose addresses are known.", status.known)
        reach = {state: int(state == status.reachability) for state in REACHES}
        yield _labelled("cactus_mesh_reachability", "1 for how others reach this node now.", "state", reach)
        yield _gauge("cactus_mesh_relays_held", "Relays at which this node has a reservation.", len(status.relays))
        yield _counter("cactus_mesh_gossip_dropped", "Gossip that came faster than it was read.", status.dropped_gossip)
        yield _counter("cactus_mesh_network_restarts", "Crashes of the network that were survived.", status.restarts)
        if status.serving is not None:
            use = status.serving
            yield _gauge("cactus_mesh_relay_reservations", "Peers that others reach through here.", use.reservations)
            yield _gauge("cactus_mesh_relay_circuits", "Circuits that run through here.", use.circuits)
            yield _counter("cactus_mesh_relay_carried_bytes", "Bytes of circuits that have ended.", use.carried_bytes)

    def _money(self) -> Iterator[Metric]:
        claimer = self._node.claimer
        if claimer is None:
            return
        yield _counter("cactus_mesh_claimed_octas", "Brought back by itself since the start.", claimer.claimed)
        if claimer.standing is not None:
            sums: Counter[str] = Counter()
            for line in holdings(claimer.standing, wall_clock() / 1_000):
                if line.own:
                    sums[line.kind] += line.amount
            yield _labelled(
                "cactus_mesh_holdings_octas", "What the ledger holds of this key's account, by why.", "kind",
                _of(HOLDINGS, sums),
            )  # fmt: skip


class EngineCollector(Collector):
    """What an engine with a worker of its own tells of it; others tell nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        memory = self._engine.memory
        if memory is not None:
            yield _gauge("cactus_mesh_engine_memory_bytes", "What models and tasks take of memory.", memory.used)
            yield _gauge("cactus_mesh_engine_memory_room_bytes", "What they may take.", memory.room)
            yield _gauge("cactus_mesh_engine_loaded_models", "Models in memory now.", len(memory.loaded))
        pulse = getattr(self._engine, "pulse", None)
        if pulse is None:
            return
        yield _counter("cactus_mesh_engine_steps", "Passes of the engine's worker since it began.", pulse.steps)
        yield _counter(
            "cactus_mesh_engine_step_tasks", "Tasks in those; divided by the steps, the mean batch.", pulse.tasks
        )
        yield _gauge("cactus_mesh_engine_cache_tokens", "Room taken for keys and values.", pulse.taken_tokens)
        yield _gauge("cactus_mesh_engine_cache_room_tokens", "Room that there is for those.", pulse.room_tokens)


def _router(router: Router) -> Iterator[Metric]:
    settling, audits = router.settling, router.audits
    yield _gauge("cactus_mesh_router_running_tasks", "Tasks under way at this router.", router.running)
    yield _gauge("cactus_mesh_unsettled_tasks", "Finished tasks that the ledger has not decided.", settling.waiting)
    yield _gauge("cactus_mesh_unsettled_octas", "What is asked for those, at most.", settling.waiting_octas)
    yield _labelled_counter(
        "cactus_mesh_settlements", "Tasks that the ledger has decided.", "result", _of(SETTLEMENTS, settling.results)
    )
    yield _labelled_counter(
        "cactus_mesh_settled_octas", "Paid for tasks, by who received it.", "to", _of(PARTIES, settling.paid)
    )
    yield _gauge("cactus_mesh_audits_waiting", "Drawn answers that are not judged yet.", audits["auditing"])
    verdicts = {name: audits.get(f"audits_{name}", 0) for name in VERDICTS}
    yield _labelled_counter("cactus_mesh_audits", "Audits that have ended.", "verdict", verdicts)


def _orchestrator(orchestrator: Orchestrator) -> Iterator[Metric]:
    load = orchestrator.load
    yield _gauge("cactus_mesh_slots", "Tasks that this orchestrator takes at once.", load.slots)
    yield _gauge("cactus_mesh_busy_slots", "Tasks that it has.", load.busy)
    yield _counter("cactus_mesh_served_tasks", "Tasks done to their end since the start.", orchestrator.served)


def _of(names: Iterable[str], found: Mapping[str, float]) -> dict[str, float]:
    """Every name, also those that have not been seen: a series that begins late hides its first step."""
    return {name: found.get(name, 0) for name in names}


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for each, value in values.items():
        family.add_metric([each], value)
    return family


def _labelled_counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for each, value in values.items():
        family.add_metric([each], value)
    return family
