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
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cactus_mesh.core.matching import Weights
from cactus_mesh.core.routing import Patience
from cactus_mesh.core.serving import ServingPolicy
from cactus_mesh.errors import ConfigMalformed, ConfigMissing, MeshError
from cactus_mesh.messages import Role  # noqa: TC001 - msgspec reads the annotations at run time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENVIRONMENT_PREFIX: Final = "CACTUS_MESH_"
DEFAULT_NETWORK: Final = "local"
SERVING_ROLES: Final = ("orchestrator", "router", "relay", "bootstrap")
_APPLICATION: Final = "cactus-mesh"
_ELSEWHERE: Final = frozenset({"HOME", "LOG"})
"""Variables with our prefix that are not settings of this file."""


@dataclass(frozen=True, slots=True)
class PriceConfig:
    """What this orchestrator asks, in octas: per task, and per thousand input and output tokens."""

    base: int = 1_000
    input_per_1k: int = 2_000
    output_per_1k: int = 10_000


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How models run.  *threads* 0 takes half of the processor's threads."""

    slots: int = 4
    threads: int = 0
    device: str = "cpu"
    allow_download: bool = False


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """How a router settles: a batch at *settle_batch* tasks or *settle_after_seconds*, whichever is first."""

    settle_batch: int = 50
    settle_after_seconds: float = 1.0
    escrow_above: int = 10_000_000
    """Tasks with a maximum price above this many octas are put into escrow on the ledger beside the work."""
    tasks_at_once: int = 512


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Whom to ask, and what a task may take unless it says otherwise: octas, tokens and seconds."""

    model: str = "cactus-selftest"
    max_price: int = 100_000
    max_tokens: int = 256
    deadline_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a node is told.  Lists in the environment are separated by commas."""

    network: str = DEFAULT_NETWORK
    roles: tuple[Role, ...] = ("orchestrator",)
    bootstrap: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    relayed: bool = False
    """Keep reservations at relays, for a machine that nobody can reach directly."""
    region: str = ""
    ledger: str = ""
    contract: str = ""
    chain_id: int = 0
    models: tuple[str, ...] = ("selftest",)
    price: PriceConfig = field(default_factory=PriceConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    serving: ServingPolicy = field(default_factory=ServingPolicy)
    router: RouterConfig = field(default_factory=RouterConfig)
    matching: Weights = field(default_factory=Weights)
    patience: Patience = field(default_factory=Patience)
    client: ClientConfig = field(default_factory=ClientConfig)


@dataclass(frozen=True, slots=True)
class Home:
    """Where a node keeps its files: *config* is the user's, *state* is ours."""

    config: Path
    state: Path

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def key_file(self) -> Path:
        return self.state / "key"

    @property
    def peers_file(self) -> Path:
        return self.state / "peers.json"

    @property
    def control_file(self) -> Path:
        return self.state / "control.json"

    @property
    def devnet(self) -> Path:
        return self.state / "devnet"


def find_home(given: Path | None, environment: Mapping[str, str] = os.environ) -> Home:
    """*given* (``--home``), else ``CACTUS_MESH_HOME``, holds everything; else the system's folders (XDG on Linux)."""
    if given is None and environment.get(ENVIRONMENT_PREFIX + "HOME"):
        given = Path(environment[ENVIRONMENT_PREFIX + "HOME"])
    if given is not None:
        return Home(given, given)
    import platformdirs

    return Home(
        platformdirs.user_config_path(_APPLICATION, appauthor=False),
        platformdirs.user_data_path(_APPLICATION, appauthor=False),
    )


def load_config(
    home: Home, flags: Mapping[str, object] | None = None, environment: Mapping[str, str] = os.environ
) -> Config:
    """Put the sources together.  *flags* are top-level values from the command line; None there means "not given".

    Raises `ConfigMalformed` naming the source, the key and what was expected there, or `ConfigMissing`.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    chosen = _merge(_merge(_read_toml(home.config_file), _from_environment(environment)), given)
    name = chosen.get("network", DEFAULT_NETWORK)
    if not isinstance(name, str):
        raise ConfigMalformed(f"network must be a name, not {name!r}")
    config = _convert(_merge(_network_file(name), chosen), Config, "the configuration")
    _check(config)
    return config


def _check(config: Config) -> None:
    if not config.roles or not set(config.roles) <= set(SERVING_ROLES):
        raise ConfigMalformed(f"roles must name one or more of: {', '.join(SERVING_ROLES)}")
    if not config.ledger or not config.contract or not config.chain_id:
        raise ConfigMissing(
            f"network {config.network!r} needs a ledger URL, a contract address and a chain id; set ledger, contract "
            "and chain_id in config.toml, or use the network 'local' with: cactus-mesh devnet"
        )
    if not _is_address(config.contract):
        raise ConfigMalformed(f"contract must be an account address, 0x and 64 hex digits, not {config.contract!r}")
    if not 1 <= config.chain_id <= 255:
        raise ConfigMalformed(f"chain_id must be between 1 and 255, not {config.chain_id}")
    if not 1 <= config.router.settle_batch <= 50:
        raise ConfigMalformed("router.settle_batch must be between 1 and 50, what one transaction can settle")
    if config.engine.slots < 1:
        raise ConfigMalformed("engine.slots must be at least 1")


def _is_address(text: str) -> bool:
    return len(text) == 66 and text.startswith("0x") and all(digit in string.hexdigits for digit in text[2:])


# --- sources -----------------------------------------------------------------------------------------------------


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigMalformed(f"cannot read {path}: {error}") from None
    _convert(values, Config, str(path))
    return values


def _network_file(name: str) -> dict[str, Any]:
    """The file of a known network; an unknown name has none and must be configured in full."""
    if not name or len(name) > 64 or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise ConfigMalformed(f"{name!r} is not a network name; use letters, digits, '-', '_' and '.'")
    package = Path(__file__).parent / "networks"
    checkout = Path(__file__).parent.parent / "bootstrap" / "networks"
    folder = package if package.is_dir() else checkout
    return _read_toml(folder / f"{name}.toml")


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
    return found


def _parse(name: str, text: str, kind: object) -> object:
    if typing.get_origin(kind) is tuple:
        return [piece.strip() for piece in text.split(",") if piece.strip()]
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigMalformed(f"{name}: {error}") from None


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
    return typing.get_type_hints(kind, vars(sys.modules[kind.__module__]))


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
        text = str(error).replace("$.", "").replace("Invalid enum value", "unknown value")
        raise ConfigMalformed(f"{source}: {text}") from None
    except MeshError as error:  # a section's own check
        raise ConfigMalformed(f"{source}: {error}") from None
