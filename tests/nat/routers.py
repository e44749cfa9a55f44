"""The kinds of networks that a machine can sit in, as rules for nftables.

A router lets out what its machines begin and lets in what answers it; kinds differ in how they rewrite addresses and in
what they say to strangers.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Kind = Literal["public", "preserving", "changing", "random", "firewall", "resetting", "double"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
DESCRIPTIONS: Final[dict[Kind, str]] = {
    "public": "a public address, nothing in between",
    "preserving": "a NAT that keeps source ports",
    "changing": "a NAT that gives each source port another one, the same towards everybody",
    "random": "a NAT that takes a random port for every connection (symmetric)",
    "firewall": "public addresses behind a firewall that drops what nobody inside began",
    "resetting": "public addresses behind a firewall that answers it with a reset",
    "double": "a port-keeping NAT behind the NAT of a carrier",
}
WITHOUT_NAT: Final = frozenset({"public", "firewall", "resetting"})
EPHEMERAL: Final = (32_768, 33_767)
"""Source ports of machines behind a `changing` router: few, for it maps each one by a rule."""
PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
PORT: Final = 4101
_SHIFT: Final = 20_000


def direct_expected(one: Kind, other: Kind) -> bool:
    """Whether two machines on networks of these kinds can have a direct connection: one of them is public, or both
    show the same port to everybody."""
    return "public" in (one, other) or "random" not in (one, other)


def rules(kind: Kind, wan: str) -> str:
    """For a router whose interfaces are called wan, with the address *wan*, and lan."""
    stranger = "reject with tcp reset" if kind == "resetting" else "drop"
    # what conntrack cannot place is not translated: its answers would go to private addresses, as if somebody dialled
    untranslated = "" if kind in WITHOUT_NAT else 'iifname "lan" oifname "wan" ct state invalid drop'
    return f"""
table ip filter {{
  counter strays {{ }}
  chain forward {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    {untranslated}
    iifname "lan" oifname "wan" ip daddr {{ {", ".join(PRIVATE)} }} counter name strays drop
    iifname "lan" accept
    meta l4proto tcp {stranger}
  }}
  chain input {{
    type filter hook input priority 0; policy accept;
    ct state established,related accept
    iifname "wan" {stranger if kind == "resetting" else "drop"}
  }}
}}
{_translation(kind, wan)}"""


def _translation(kind: Kind, wan: str) -> str:
    if kind in WITHOUT_NAT:
        return ""
    match kind:
        case "random":
            how = "masquerade fully-random"
        case "changing":
            how = f"meta l4proto tcp snat ip to {wan} : tcp sport map @ports\n    masquerade"
        case _:
            how = "masquerade"
    return f"""
table ip nat {{
{_ports() if kind == "changing" else ""}
  chain postrouting {{
    type nat hook postrouting priority 100;
    oifname != "wan" return
    {how}
  }}
}}
"""


def _ports() -> str:
    sources = [PORT, *range(EPHEMERAL[0], EPHEMERAL[1] + 1)]
    pairs = ", ".join(f"{port} : {port + _SHIFT}" for port in sources)
    return f"  map ports {{\n    type inet_service : inet_service\n    elements = {{ {pairs} }}\n  }}"
