"""Port mapping against a real router's daemon, miniupnpd, in its namespace: PCP, and UPnP alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.nat.namespaces import nft, run
from tests.nat.routers import PORT
from tests.nat.test_internet import seen, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nat.internet import Internet, Machine, Site

DAEMON = os.environ.get("MINIUPNPD") or shutil.which("miniupnpd") or "/usr/sbin/miniupnpd"
PATIENCE_SECONDS = 20.0

pytestmark = pytest.mark.skipif(
    not Path(DAEMON).exists(),
    reason="NO ROUTER'S DAEMON WAS ASKED: Debian's package miniupnpd-nftables is missing",
)

CHAINS = """
table inet upnp {
  chain forwarded { }
  chain mapped { }
  chain translated { }
  chain prerouting {
    type nat hook prerouting priority -100
    jump mapped
  }
}
"""
CONFIGURATION = """
ext_ifname=wan
listening_ip=lan
port=5000
enable_natpmp={natpmp}
enable_upnp={upnp}
secure_mode=yes
uuid=00000000-0000-0000-0000-000000000000
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=forwarded
upnp_nat_chain=mapped
upnp_nat_postrouting_chain=translated
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
KEEP = """
import json, sys, trio
from cactus_mesh.net.portmap import keep_mapping
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_mapping, int(sys.argv[1]), lambda *told: print(json.dumps(told), flush=True))
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
trio.run(main)
"""


@contextmanager
def daemon(site: Site, folder: Path, **protocols: str) -> Iterator[None]:
    """The router of *site* forwards what its machines ask for."""
    nft(site.namespace, CHAINS)
    nft(site.namespace, "insert rule ip filter forward ct status dnat accept")
    configuration = folder / "miniupnpd.conf"
    configuration.write_text(CONFIGURATION.format(**protocols))
    inside = ["ip", "netns", "exec", site.namespace]
    command = [*inside, DAEMON, "-d", "-f", str(configuration), "-P", str(folder / "pid")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + PATIENCE_SECONDS
            while not any(port in run(*inside, "ss", "-lnut") for port in (":5351", ":1900")):
                assert process.poll() is None, "the daemon has not started"
                assert time.monotonic() < until, "the daemon does not listen"
                time.sleep(0.05)
            yield
        finally:
            process.kill()


@contextmanager
def keeping(machine: Machine) -> Iterator[list[str | None]]:
    """*machine* has its port mapped; what it was told."""
    command = ["ip", "netns", "exec", machine.namespace, sys.executable, "-c", KEEP, str(PORT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
            process.stdin.close()
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("protocols", "how"),
    [({"natpmp": "yes", "upnp": "no"}, "PCP from 192.168.1.1"), ({"natpmp": "no", "upnp": "yes"}, "UPnP")],
)
def test_a_mapped_port_is_reached_from_outside_and_given_back(
    internet: Internet, tmp_path: Path, protocols: dict[str, str], how: str
) -> None:
    stranger, machine = internet.machine("stranger", "public"), internet.machine("inside", "preserving")
    with serving(machine), daemon(machine.site, tmp_path, **protocols):
        assert seen(stranger, machine.site.wan) == "TimeoutError"
        with keeping(machine) as told:
            assert told == [f"/ip4/{machine.site.wan}/tcp/{PORT}", f"mapped by {how}"]
            assert seen(stranger, machine.site.wan).startswith(stranger.address)
        assert seen(stranger, machine.site.wan) == "TimeoutError"


def test_behind_two_nats_the_inner_routers_mapping_is_of_no_use_and_the_reason_is_told(
    internet: Internet, tmp_path: Path
) -> None:
    machine = internet.machine("inside", "double")
    with daemon(machine.site, tmp_path, natpmp="yes", upnp="no"), keeping(machine) as told:
        assert told[0] is None
        assert "no public address itself" in str(told[1])
