"""What a user may set, where it comes from, and what is wrong with it when it is wrong.

A value is taken from the command line, else from ``CACTUS_MESH_…`` in the environment, else from ``config.toml``, else
from the network's file, else from the defaults below.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import string
import sys
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from cactus_mesh.core.draws import AuditPolicy, refuse_unprofitable
from cactus_mesh.core.keeping import RecordPolicy
from cactus_mesh.core.matching import Weights
from cactus_mesh.core.routing import Patience
from cactus_mesh.core.serving import ServingPolicy
from cactus_mesh.errors import ConfigMalformed, ConfigMissing, MeshError
from cactus_mesh.home import ENVIRONMENT_PREFIX as ENVIRONMENT_PREFIX
from cactus_mesh.home import Home as Home
from cactus_mesh.home import find_home as find_home
from cactus_mesh.identity import public_key_of
from cactus_mesh.messages import MAX_TOKENS, MAX_VALIDITY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_NETWORK: Final = "local"
_ELSEWHERE: Final = frozenset({"HOME", "LOG"})
"""Variables with our prefix that are not settings of this file."""

ServingRole = Literal["bootstrap", "orchestrator", "relay", "router"]
_Octas = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Label = Annotated[str, Meta(max_length=200)]


@dataclass(frozen=True, slots=True)
class PriceConfig:
    """What this orchestrator asks, in octas: per task, and per thousand input and output tokens."""

    base: _Octas = 1_000
    input_per_1k: _Octas = 2_000
    output_per_1k: _Octas = 10_000


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How models run: on this machine, or at a server with the OpenAI API, by its *url* and *key*.

    *threads* 0 takes half of the processor's threads; *device* ``auto`` a GPU where there is one.  *dtype* is part of a
    model's identity.
    """

    kind: Literal["openai", "torch"] = "torch"
    url: Annotated[str, Meta(pattern=r"^(https?://.+)?$")] = ""
    key: str = ""
    slots: Annotated[int, Meta(ge=1, le=4_096)] = 16
    threads: Annotated[int, Meta(ge=0, le=4_096)] = 0
    device: str = "auto"
    dtype: Literal["bfloat16", "float16", "float32"] = "float32"
    memory_mib: Annotated[int, Meta(ge=0, le=16_777_216)] = 0
    """For weights, keys and values of all models in memory; 0 for most of what there is.  Others take turns."""
    cache_mib: Annotated[int, Meta(ge=1, le=16_777_216)] = 1_024
    """Most of it that one model's keys and values may have."""
    allow_download: bool = False


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """How a router settles: a batch at *settle_batch* tasks or *settle_after_seconds*, whichever is first.

    One transaction settles at most 50.
    """

    settle_batch: Annotated[int, Meta(ge=1, le=50)] = 50
    settle_after_seconds: Annotated[float, Meta(gt=0, le=300)] = 1.0
    escrow_above: _Octas = 10_000_000
    """Tasks with a maximum price above this many octas are put into escrow on the ledger beside the work."""
    tasks_at_once: Annotated[int, Meta(ge=1, le=100_000)] = 512


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Whom to ask, and what a task may take unless it says otherwise: octas, tokens and seconds."""

    model: str = "cactus-selftest"
    max_price: _Octas = 100_000
    cap_per_task: _Octas = 0
    """No task is sent that may cost more than this many octas; 0 for no cap."""
    cap_per_day: _Octas = 0
    """Nor one with which all tasks since midnight (UTC) may; 0 for no cap."""
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = 256
    deadline_seconds: Annotated[float, Meta(gt=0, lt=MAX_VALIDITY_MS / 1_000)] = 120.0


@dataclass(frozen=True, slots=True)
class ClaimsConfig:
    """Whether a running node brings its money back by itself, how often it looks, and what is worth a fee, in octas."""

    automatic: bool = True
    every_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    least: _Octas = 100_000


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The OpenAI-compatible HTTP gateway: where it listens, for whom, and how much one caller may take."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 4180
    hosts: tuple[str, ...] = ()
    """Names of this machine, as a Host header may have them, beside those of loopback."""
    origins: tuple[str, ...] = ()
    """Web pages that may call it (CORS), as ``https://example.org``; none by default."""
    tasks_at_once: Annotated[int, Meta(ge=1, le=4_096)] = 128
    connections: Annotated[int, Meta(ge=1, le=16_384)] = 512
    requests_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)] = 6_000
    """Of one key, or of one address where no keys are needed."""
    dashboard: bool = True
    """Serve the page that shows this process and the mesh around it, at ``/``."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where ``/metrics`` is served without a gateway: ``HOST:PORT``, a port alone for loopback, nowhere by default."""

    listen: _Label = ""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a node is told.  Lists in the environment are separated by commas."""

    network: str = DEFAULT_NETWORK
    roles: Annotated[tuple[ServingRole, ...], Meta(min_length=1)] = ("orchestrator",)
    bootstrap: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    relays: Literal["always", "auto", "never"] = "auto"
    """Keep reservations at relays: *auto* while nobody can reach this machine directly."""
    mdns: bool = True
    """Find peers of the same LAN, and be found by them."""
    region: _Label = ""
    ledger: Annotated[str, Meta(pattern=r"^(https?://.+)?$")] = ""
    contract: Annotated[str, Meta(pattern=r"^(0x[0-9a-f]{64})?$")] = ""
    chain_id: Annotated[int, Meta(ge=0, le=255)] = 0
    publisher: str = ""
    """The peer id of the key that signs the network's list of known peers; empty when it has no such list."""
    models: Annotated[tuple[str, ...], Meta(max_length=32)] = ("selftest",)
    price: PriceConfig = field(default_factory=PriceConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    serving: ServingPolicy = field(default_factory=ServingPolicy)
    router: RouterConfig = field(default_factory=RouterConfig)
    matching: Weights = field(default_factory=Weights)
    audit: AuditPolicy = field(default_factory=AuditPolicy)
    patience: Patience = field(default_factory=Patience)
    client: ClientConfig = field(default_factory=ClientConfig)
    claims: ClaimsConfig = field(default_factory=ClaimsConfig)
    records: RecordPolicy = field(default_factory=RecordPolicy)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)


def load_config(
    home: Home, flags: Mapping[str, object] | None = None, environment: Mapping[str, str] = os.environ
) -> Config:
    """Put the sources together.  *flags* are top-level values from the command line; None there means "not given".

    Raises `ConfigMalformed` naming the source, the key and what was expected there, or `ConfigMissing`.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    _convert(given, Config, "the command line")
    chosen = _merge(_merge(_read_toml(home.config_file), _from_environment(environment)), given)
    network = _network_file(home, chosen.get("network", DEFAULT_NETWORK))
    config = _convert(_merge(network, chosen), Config, "the configuration")
    _check(config)
    return config


def _check(config: Config) -> None:
    if len(set(config.roles)) != len(config.roles):
        raise ConfigMalformed(f"a role is named twice in {', '.join(config.roles)}; name each once")
    if not config.ledger or not config.contract or not config.chain_id:
        raise ConfigMissing(
            f"network {config.network!r} needs a ledger URL, a contract address and a chain id; set ledger, contract "
            "and chain_id in config.toml, or use the network 'local' with: cactus-mesh devnet"
        )
    if (config.engine.kind == "openai") != bool(config.engine.url):
        raise ConfigMalformed(
            "a server with the OpenAI API needs both: --engine openai --engine-url http://HOST:PORT/v1 (engine.kind, "
            "engine.url)"
        )
    if not _is_address(config.contract):
        raise ConfigMalformed(f"contract must be an account address, 0x and 64 hex digits, not {config.contract!r}")
    if not 1 <= config.chain_id <= 255:
        raise ConfigMalformed(f"chain_id must be between 1 and 255, not {config.chain_id}")
    if "router" in config.roles:
        refuse_unprofitable(config.audit, config.matching.stake_cover)
    if config.publisher:
        try:
            public_key_of(config.publisher)
        except ValueError as error:
            raise ConfigMalformed(f"publisher must be the peer id of a key: {error}") from None


def _is_address(text: str) -> bool:
    return len(text) == 66 and text.startswith("0x") and all(digit in string.hexdigits for digit in text[2:])


# --- sources -----------------------------------------------------------------------------------------------------


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigMalformed(f"cannot read {path}: {error}") from None
    _convert(values, Config, str(path))
    return values


def network_folders(home: Home) -> tuple[Path, ...]:
    """Where files of networks are: the user's own, then those that came with the program."""
    package = Path(__file__).parent / "networks"
    checkout = Path(__file__).parent.parent / "bootstrap" / "networks"
    return (home.config / "networks", package if package.is_dir() else checkout)


def _network_file(home: Home, name: str) -> dict[str, Any]:
    """The file of a known network; an unknown name has none and must be configured in full."""
    if not name or len(name) > 64 or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise ConfigMalformed(f"{name!r} is not a network name; use letters, digits, '-', '_' and '.'")
    paths = [folder / f"{name}.toml" for folder in network_folders(home)]
    return _read_toml(next((path for path in paths if path.exists()), paths[-1]))


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    leaves = {ENVIRONMENT_PREFIX + "_".join(path).upper(): (path, kind) for path, kind in _leaves(Config)}
    found: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name[len(ENVIRONMENT_PREFIX) :] in _ELSEWHERE:
            continue
        if name not in leaves:
            raise ConfigMalformed(f"there is no setting for the variable {name}{_did_you_mean(name, leaves)}")
        path, kind = leaves[name]
        _put(found, path, _parse(name, text, kind))
    _convert(found, Config, "the environment")
    return found


def _parse(name: str, text: str, kind: object) -> object:
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    is_list = typing.get_origin(plain) is tuple
    value = [piece.strip() for piece in text.split(",") if piece.strip()] if is_list else text
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigMalformed(f"{name}: {_plainly(error)}") from None


def _put(into: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        into = into.setdefault(part, {})
    into[path[-1]] = value


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


# --- shapes ------------------------------------------------------------------------------------------------------


def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, vars(sys.modules[kind.__module__]), include_extras=True)


def _leaves(kind: type, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, hint in _hints(kind).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _leaves(hint, (*path, name))
        else:
            yield (*path, name), hint


def _refuse_unknown(values: Mapping[str, Any], kind: type, source: str, where: str = "") -> None:
    hints = _hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise ConfigMalformed(f"{source}: there is no setting {where + key!r}{_did_you_mean(key, hints)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
            _refuse_unknown(value, hint, source, f"{where}{key}.")


def _did_you_mean(word: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _convert(values: Mapping[str, Any], kind: type[Config], source: str) -> Config:
    _refuse_unknown(values, kind, source)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigMalformed(f"{source}: {_plainly(error)}") from None
    except MeshError as error:  # a section's own check
        raise ConfigMalformed(f"{source}: {error}") from None


def _plainly(error: msgspec.ValidationError) -> str:
    """What msgspec says, in the words of a file of settings."""
    return str(error).replace("$.", "").replace("`$[", "`[").replace("Invalid enum value", "unknown value")
