"""Who gets in: decides by Host, Origin, API key and rate, before anything of a request's body is read.

A browser reaches loopback too.  So a page of another origin is refused, and a name that is not this machine's, which
is what DNS rebinding looks like.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cactus_mesh.errors import ApiKeyRejected, GatewayKeysMissing, HostRefused, OriginRefused, TooManyRequests
from cactus_mesh.gateway.faults import Fault
from cactus_mesh.gateway.http import header

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

    from cactus_mesh.config import GatewayConfig
    from cactus_mesh.gateway.keys import Keyring

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""For probes, which have no key; they tell nothing that a refused connection would not."""
WRONG_KEYS_PER_MINUTE: Final = 30
"""From one address."""
CALLERS_KNOWN: Final = 4_096
"""Buckets of rates that are kept; the caller heard longest ago is forgotten."""
PAGE: Final = "/"
PAGE_FILES: Final = "/dashboard/page/"
"""The dashboard's page is the same for everybody, and holds nothing; what it shows is not."""
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the id of a key, or an address.  *origin* is that of a page which may read the answer."""

    name: str
    origin: str | None


class Rates:
    """A bucket for each caller that fills *per_minute* times a minute and holds a sixth of that, at least ten."""

    def __init__(self, per_minute: int) -> None:
        self._per_second = per_minute / 60
        self._most = max(10.0, per_minute / 6)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str, now: float) -> float:
        """How many seconds until *caller* may do it again; 0 for now."""
        left = self._left(caller, now)
        return 0.0 if left >= 1 else (1 - left) / self._per_second

    def take(self, caller: str, now: float) -> None:
        self._buckets[caller] = (self._left(caller, now) - 1, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > CALLERS_KNOWN:
            self._buckets.popitem(last=False)

    def _left(self, caller: str, now: float) -> float:
        left, then = self._buckets.get(caller, (self._most, now))
        return min(self._most, left + (now - then) * self._per_second)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(value: str) -> str:
    """Without port and brackets, in lower case."""
    value = value.strip().lower()
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0].rstrip(".")


def require_keys(config: GatewayConfig, keys: Keyring) -> None:
    """Raises `GatewayKeysMissing` when others could reach the gateway and nobody has a key."""
    if not is_loopback(config.host) and not keys:
        raise GatewayKeysMissing(
            f"on {config.host} other machines can reach the gateway and spend this account's money; add a key first "
            "with: cactus-mesh gateway keys add NAME"
        )


class Guard:
    """Raises as `require_keys`."""

    def __init__(self, config: GatewayConfig, keys: Keyring) -> None:
        self._config = config
        self._keys = keys
        self._local = is_loopback(config.host)
        self._names = LOOPBACK_NAMES | {host_name(name) for name in config.hosts}
        self._rates = Rates(config.requests_per_minute)
        self._wrong = Rates(WRONG_KEYS_PER_MINUTE)
        require_keys(config, keys)

    def judge(self, scope: Scope, now: float) -> Caller:
        """Raises a `Fault`."""
        self._check_host(scope)
        origin = self._origin(scope)
        client = scope.get("client") or ("", 0)
        if _is_open(scope["path"]) or (origin is not None and scope["method"] == "OPTIONS"):
            return Caller(str(client[0]), origin)
        caller = Caller(self._who(scope, str(client[0]), now), origin)
        wait = self._rates.wait(caller.name, now)
        if wait:
            raise _too_many("too many requests in the last minute", wait)
        self._rates.take(caller.name, now)
        return caller

    def still(self, scope: Scope, now: float) -> bool:
        """Whether whoever was let in before would be now, but for the rate."""
        try:
            self._who(scope, str((scope.get("client") or ("",))[0]), now)
        except Fault:
            return False
        return True

    @property
    def has_keys(self) -> bool:
        return bool(self._keys)

    def _check_host(self, scope: Scope) -> None:
        hosts = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
        if not self._local and not self._config.hosts:
            return  # whoever gets further than this has a key, which a rebound page has not
        if len(hosts) != 1 or host_name(hosts[0]) not in self._names:
            raise Fault(
                HostRefused(
                    f"this gateway does not go by the name {', '.join(hosts) or '(none)'!r}; use the URL that it "
                    "printed, or add the name to gateway.hosts"
                )
            )

    def _origin(self, scope: Scope) -> str | None:
        """The origin of a page that is let in, None when no page of another origin asks."""
        origin = header(scope, b"origin")
        site = header(scope, b"sec-fetch-site")
        if origin is not None and origin in self._config.origins:
            return origin
        if origin is not None and origin == f"{scope['scheme']}://{header(scope, b'host')}":
            return None
        if origin is None and scope["path"] == PAGE and header(scope, b"sec-fetch-mode") == "navigate":
            return None  # somebody follows a link to the page
        if origin is not None or site in ("cross-site", "same-site"):
            raise Fault(
                OriginRefused(f"pages of {origin or 'another origin'} may not use this gateway; see gateway.origins")
            )
        return None

    def _who(self, scope: Scope, address: str, now: float) -> str:
        self._keys.refresh(now)
        if self._local and not self._keys:
            return address
        wait = self._wrong.wait(address, now)
        if wait:
            raise _too_many("too many wrong API keys from this address", wait)
        given = header(scope, b"authorization") or ""
        kind, _, key = given.partition(" ")
        holder = self._keys.holder(key.strip()) if kind.lower() == "bearer" else None
        if holder is None:
            self._wrong.take(address, now)
            raise Fault(
                ApiKeyRejected(
                    "the API key is missing, wrong or was removed; make one with: cactus-mesh gateway keys add NAME"
                )
            )
        return holder.id


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path == PAGE or path.startswith(PAGE_FILES)


def _too_many(why: str, wait_seconds: float) -> Fault:
    seconds = max(1, -int(-wait_seconds // 1))
    return Fault(TooManyRequests(f"{why}; try again in {seconds} s"), retry_after=seconds)


def cors(caller: Caller, *, preflight: bool) -> dict[str, str]:
    """What lets a page of *caller*'s origin read the answer; nothing for whom there is none."""
    if caller.origin is None:
        return {}
    allowed = {"access-control-allow-origin": caller.origin, "vary": "origin"}
    if preflight:
        return allowed | {
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": "authorization, content-type, idempotency-key, " + ", ".join(_STAINLESS),
            "access-control-max-age": "600",
        }
    return allowed | {"access-control-expose-headers": ", ".join(EXPOSED)}


EXPOSED: Final = (
    *("retry-after", "x-request-id", "x-cactus-task-id", "x-cactus-orchestrator", "x-cactus-router"),
    *("x-cactus-max-price-octas", "x-cactus-price-octas", "x-cactus-overhead-ms"),
)
_STAINLESS: Final[Iterable[str]] = tuple(
    f"x-stainless-{name}"
    for name in (
        *("arch", "lang", "os", "package-version", "retry-count", "runtime"),
        *("runtime-version", "timeout", "helper-method"),
    )
)
"""What the official clients send."""
