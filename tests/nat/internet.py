"""A small internet of namespaces: a core that routes, sites of each kind around it, machines in them.

Every site has a public /24 of its own.  Everybody behind a NAT has the same private addresses, as in real homes.
"""

from __future__ import annotations

import contextlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.nat.namespaces import LabMissing, has_netem, nft, open_namespaces, run
from tests.nat.routers import EPHEMERAL, PRIVATE, WITHOUT_NAT, rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nat.namespaces import Namespaces
    from tests.nat.routers import Kind

DELAY_MS: Final = 10
"""Added to each packet towards a site, where the kernel can."""
_CORE: Final = f"""
table inet lab {{
  counter strays {{ }}
  set cut {{ type ifname; }}
  chain prerouting {{
    type filter hook prerouting priority -300;
    iifname @cut drop
    ip daddr {{ {", ".join(PRIVATE)} }} counter name strays drop
  }}
  chain postrouting {{ type filter hook postrouting priority 300; oifname @cut drop; }}
}}
"""


@dataclass(slots=True)
class Site:
    """A network at the edge.  *namespace* is its router's, or its only machine's when it is public."""

    kind: Kind
    number: int
    namespace: str
    machines: int = 0

    @property
    def link(self) -> str:
        """What the core calls its line."""
        return f"site{self.number}"

    @property
    def wan(self) -> str:
        return f"11.0.{self.number}.2"

    @property
    def lan(self) -> str:
        """The first three bytes of its machines' addresses."""
        return f"11.1.{self.number}" if self.kind in WITHOUT_NAT else "192.168.1"


@dataclass(slots=True)
class Machine:
    """*address* is its own, as it sees it; the world may see another."""

    name: str
    namespace: str
    site: Site
    address: str


@contextmanager
def open_internet() -> Iterator[Internet]:
    """Raises `LabMissing`.  Leaving the block removes it with every process in it."""
    with open_namespaces() as namespaces:
        yield Internet(namespaces)


class Internet:
    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._core = namespaces.add("core")
        self._sites = 0
        self._routers: dict[str, str] = {}
        """Namespaces, by the kind and number of their site."""
        self.delay_ms = DELAY_MS if has_netem() else 0
        _route(self._core)
        nft(self._core, _CORE)

    # --- building ------------------------------------------------------------------------------------------------

    def site(self, kind: Kind) -> Site:
        """A router of that kind on the core; for "public" there is none, its machine is the site."""
        assert self._sites < 254, "a site has one byte of the address"
        self._sites += 1
        site = Site(kind, self._sites, self._namespaces.add(f"s{self._sites}"))
        router = site.namespace
        self._line(site, "eth0" if kind == "public" else "wan")
        if kind == "public":
            return site
        _route(router)
        if kind == "double":
            inner = self._namespaces.add(f"s{self._sites}b")
            _route(inner)
            _bridge(router, "100.64.0.1")
            _plug(router, inner, "wan", "100.64.0.2/24", "100.64.0.1", port="inner")
            nft(router, rules("preserving", site.wan))
            nft(inner, rules("preserving", "100.64.0.2"))
            self._routers[f"carrier of {site.link}"] = router
            site.namespace = router = inner
        else:
            nft(router, rules(kind, site.wan))
        self._routers[f"{kind} {site.link}"] = router
        _bridge(router, f"{site.lan}.1")
        if kind in WITHOUT_NAT:
            run("ip", "-n", self._core, "route", "add", f"{site.lan}.0/24", "via", site.wan)
        return site

    def _line(self, site: Site, name: str) -> None:
        """The veth pair between the core and a site."""
        core, link, far = self._core, site.link, site.namespace
        run("ip", "link", "add", link, "netns", core, "type", "veth", "peer", "name", name, "netns", far)
        run("ip", "-n", core, "addr", "add", f"11.0.{site.number}.1/24", "dev", link)
        run("ip", "-n", core, "link", "set", link, "up")
        run("ip", "-n", far, "addr", "add", f"{site.wan}/24", "dev", name)
        run("ip", "-n", far, "link", "set", name, "up")
        run("ip", "-n", far, "route", "add", "default", "via", f"11.0.{site.number}.1")
        if self.delay_ms:
            run("tc", "-n", core, "qdisc", "add", "dev", link, "root", "netem", "delay", f"{self.delay_ms}ms")

    def machine(self, name: str, site: Site | Kind) -> Machine:
        """A machine in *site*, or in a new one of that kind."""
        place = self.site(site) if isinstance(site, str) else site
        if place.kind == "public":
            assert place.machines == 0, "a public site is one machine"
            place.machines = 1
            return Machine(name, place.namespace, place, place.wan)
        namespace = self._namespaces.add(name)
        machine = Machine(name, namespace, place, "")
        self._attach(machine, place)
        return machine

    def _attach(self, machine: Machine, site: Site) -> None:
        site.machines += 1
        machine.site = site
        machine.address = f"{site.lan}.{site.machines + 1}"
        _plug(
            site.namespace,
            machine.namespace,
            "eth0",
            f"{machine.address}/24",
            f"{site.lan}.1",
            port=f"port{site.machines}",
        )
        low, high = EPHEMERAL if site.kind == "changing" else (32_768, 60_999)
        _set(machine.namespace, f"net.ipv4.ip_local_port_range={low} {high}")

    def give_ip6(self, machine: Machine) -> None:
        """A public IPv6 address beside its IPv4 one."""
        assert machine.site.kind == "public", "the routers of the others know IPv4 only"
        site, far = machine.site, machine.namespace
        _set(self._core, "net.ipv6.conf.all.forwarding=1")
        for namespace, device, last in ((self._core, site.link, 1), (far, "eth0", 2)):
            address = f"2001:db8:{site.number}::{last}/64"
            run("ip", "-n", namespace, "-6", "addr", "add", address, "dev", device, "nodad")
        run("ip", "-n", far, "-6", "route", "add", "default", "via", f"2001:db8:{site.number}::1")

    # --- trouble -------------------------------------------------------------------------------------------------

    def move(self, machine: Machine, site: Site | Kind) -> None:
        """Carry *machine* into another site, as a laptop is: its old address is gone, its processes go on."""
        assert machine.site.kind != "public", "a public site is its machine"
        place = self.site(site) if isinstance(site, str) else site
        assert place.kind != "public", "a public site is its machine"
        run("ip", "-n", machine.namespace, "link", "del", "eth0")
        self._attach(machine, place)

    def cut(self, site: Site) -> None:
        """Nothing passes between *site* and the others, and nobody is told."""
        nft(self._core, f"add element inet lab cut {{ {site.link} }}")

    def part(self, one: Machine, other: Machine) -> None:
        """No IPv4 passes between the two."""
        for here, there in ((one, other), (other, one)):
            nft(self._core, f"add rule inet lab prerouting ip saddr {here.site.wan} ip daddr {there.site.wan} drop")

    def restore(self, site: Site) -> None:
        with contextlib.suppress(LabMissing):  # it was not cut
            nft(self._core, f"delete element inet lab cut {{ {site.link} }}")

    def strays(self) -> dict[str, int]:
        """Packets to private addresses that left their network so far, by where they were caught: somebody dialled
        what only a neighbour can."""
        places = {"core": ("inet", "lab", self._core)}
        places |= {name: ("ip", "filter", router) for name, router in self._routers.items()}
        listings = {
            name: run("ip", "netns", "exec", namespace, "nft", "list", "counter", family, table, "strays")
            for name, (family, table, namespace) in places.items()
        }
        counts = {name: int(listing.split("packets ")[1].split()[0]) for name, listing in listings.items()}
        return {name: count for name, count in counts.items() if count}


def _set(namespace: str, setting: str) -> None:
    run("ip", "netns", "exec", namespace, "sysctl", "-qw", setting)


def _route(namespace: str) -> None:
    _set(namespace, "net.ipv4.ip_forward=1")


def _bridge(router: str, address: str) -> None:
    run("ip", "-n", router, "link", "add", "lan", "type", "bridge")
    run("ip", "-n", router, "addr", "add", f"{address}/24", "dev", "lan")
    run("ip", "-n", router, "link", "set", "lan", "up")


def _plug(router: str, machine: str, name: str, address: str, gateway: str, *, port: str) -> None:
    run("ip", "link", "add", port, "netns", router, "type", "veth", "peer", "name", name, "netns", machine)
    run("ip", "-n", router, "link", "set", port, "master", "lan", "up")
    run("ip", "-n", machine, "addr", "add", address, "dev", name)
    run("ip", "-n", machine, "link", "set", name, "up")
    run("ip", "-n", machine, "route", "add", "default", "via", gateway)
