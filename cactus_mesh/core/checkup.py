"""From measurements to verdicts: what `cactus-mesh doctor` thinks of a machine, its key, its ledger.

Decides pass, warn or fail, the measured value in words, and the one thing to do; how anything is measured is the
shell's.  *fail* is what keeps a node from working, *warn* what makes it work less well or later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cactus_mesh.errors import MeshError

Verdict = Literal["pass", "warn", "fail"]

CLOCK_WARN_SECONDS: Final = 10.0
CLOCK_FAIL_SECONDS: Final = 30.0
"""Peers refuse a message that is issued further in their future than this (`messages.MAX_CLOCK_SKEW_MS`)."""
HOME_FAIL_BYTES: Final = 50 << 20
HOME_WARN_BYTES: Final = 500 << 20
"""The journal and what is remembered take some tens of megabytes."""
MODELS_WARN_BYTES: Final = 5 << 30
"""A small model with its download; larger ones say so when they are fetched."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.  *advice* is the one thing to do; empty when all is well."""

    check: str
    verdict: Verdict
    measured: str
    advice: str = ""


# --- this machine ------------------------------------------------------------------------------------------------


def judge_settings(error: MeshError | None, source: str) -> Finding:
    if error is None:
        return Finding("settings", "pass", source)
    return Finding("settings", "fail", str(error), "correct it there; the rest was checked with the defaults")


@dataclass(frozen=True, slots=True)
class ClockReading:
    """*ahead_seconds*: how far this machine's clock is before *source*'s, give or take *doubt_seconds*."""

    source: str
    ahead_seconds: float
    doubt_seconds: float


def judge_clock(readings: Sequence[ClockReading], refusals: Sequence[str], *, accepted: bool) -> Finding:
    """*refusals* are what peers said of our messages' times; *accepted* whether one took our hello."""
    if readings:
        return _judge_reading(min(readings, key=lambda reading: reading.doubt_seconds))
    if refusals:
        return Finding("clock", "fail", refusals[0], _SET_CLOCK)
    if accepted:
        return Finding("clock", "pass", f"within {CLOCK_FAIL_SECONDS:.0f} s of a peer's, which took our hello")
    return Finding(
        "clock", "warn", "nobody to compare it with: neither ledger nor peer answers", "correct what fails below first"
    )


def _judge_reading(reading: ClockReading) -> Finding:
    off = abs(reading.ahead_seconds)
    certainly = off - reading.doubt_seconds
    way = "ahead of" if reading.ahead_seconds > 0 else "behind"
    measured = f"{off:.1f} s {way} {reading.source}"
    if certainly <= 0:
        measured = f"as {reading.source}'s, within {max(off, reading.doubt_seconds):.1f} s"
    if certainly > CLOCK_FAIL_SECONDS:
        return Finding("clock", "fail", measured, _SET_CLOCK)
    if certainly > CLOCK_WARN_SECONDS:
        return Finding("clock", "warn", f"{measured}; peers refuse more than {CLOCK_FAIL_SECONDS:.0f} s", _SET_CLOCK)
    return Finding("clock", "pass", measured)


_SET_CLOCK: Final = "set this machine's clock, best by time synchronisation (timedatectl set-ntp true)"


def judge_key(path: str, peer: str | None, error: MeshError | None, *, mode: int | None) -> Finding:
    """*peer* is who the key at *path* makes us; None where there is no key that can be used."""
    if peer is not None:
        kept = f"{path}, mode {mode:04o}" if mode is not None else path
        return Finding("key", "pass", f"{peer}\n{kept}")
    if error is None:
        return Finding("key", "pass", f"none at {path} yet; the first run makes one")
    what, _, to_do = str(error).partition("; ")
    return Finding("key", "fail", what, to_do or "restore it from your backup")


def judge_port(listen: Sequence[str], *, held: Sequence[str], refused: Mapping[str, str], chosen: bool) -> Finding:
    """*held* are the addresses that our own running node has, *refused* says why one of *listen* cannot be had.

    *chosen*: the user names them, so that there is no other port to fall back to.
    """
    if held:
        return Finding("port", "pass", f"{', '.join(held)}, held by the running node")
    if not refused:
        return Finding("port", "pass", f"{', '.join(listen)} can be had")
    why, _, to_do = next(iter(refused.values())).partition("; ")
    if chosen:
        return Finding("port", "fail", why, to_do or "stop the other program, or choose another port with --listen")
    return Finding(
        "port", "warn", f"{why}; a node here takes any free port", "stop the other program for an address that stays"
    )


def judge_disk(home: str, free: int, *, writable: bool, cache: str | None, cache_free: int) -> Finding:
    """Free bytes where the home is and, if models may be downloaded, where the hub's *cache* is."""
    measured = f"{_size(free)} free for {home}"
    if not writable:
        return Finding(
            "disk", "fail", f"{home} cannot be written", "name another folder with --home, or change its owner"
        )
    if free < HOME_FAIL_BYTES:
        return Finding("disk", "fail", measured, "make room: keys and what is owed must be kept")
    if cache is not None:
        measured += f"\n{_size(cache_free)} free for models in {cache}"
        if cache_free < MODELS_WARN_BYTES:
            return Finding("disk", "warn", measured, "make room, or move the cache with HF_HOME")
    if free < HOME_WARN_BYTES:
        return Finding("disk", "warn", measured, "make room")
    return Finding("disk", "pass", measured)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


@dataclass(frozen=True, slots=True)
class Torch:
    """What a process that imports torch says.  *devices* as torch names them, with what they are."""

    version: str
    threads: int
    devices: dict[str, str]


def judge_torch(missing: Sequence[str], torch: Torch | None, problem: str, *, device: str, needed: bool) -> Finding:
    """*missing* are packages, *problem* why torch does not start, *device* the configured one."""
    if missing:
        measured = f"not installed: {', '.join(missing)}"
        if not needed:
            return Finding("torch", "pass", f"{measured}; not needed in this role")
        advice = "to run models: pip install 'cactus-mesh[inference]'; asking, routing and relaying need none"
        return Finding("torch", "warn", measured, advice)
    if torch is None:
        return Finding(
            "torch", "fail" if needed else "warn", problem, "install torch again, for this machine's processor"
        )
    found = "; ".join(f"{name} ({what})" for name, what in torch.devices.items())
    measured = f"torch {torch.version} on {device}; here are: {found}"
    kind = device.partition(":")[0]
    if kind == "auto":
        return Finding("torch", "pass", measured)
    if kind not in torch.devices:
        return Finding("torch", "fail", measured, f"set engine.device to one of: {', '.join(torch.devices)}")
    others = [name for name in torch.devices if name != "cpu"]
    if kind == "cpu" and others:
        return Finding("torch", "warn", measured, f"for speed set engine.device to {others[0]}")
    return Finding("torch", "pass", measured)


# --- the way out -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lookup:
    name: str
    addresses: tuple[str, ...]
    milliseconds: float
    problem: str = ""


def judge_dns(lookups: Sequence[Lookup]) -> Finding:
    if not lookups:
        return Finding("dns", "pass", "not needed: ledger and bootstrap peers are given as addresses")
    failed = [each for each in lookups if each.problem]
    words = [
        f"{each.name}: {each.problem or ', '.join(each.addresses[:2])} ({each.milliseconds:.0f} ms)" for each in lookups
    ]
    if failed:
        return Finding(
            "dns", "fail", "\n".join(words), f"check the spelling of {failed[0].name}, and this machine's DNS"
        )
    return Finding("dns", "pass", "\n".join(words))


def judge_ledger(url: str, chain_id: int, contract: str, error: MeshError | None, milliseconds: float) -> Finding:
    if error is None:
        short = f"{contract[:10]}…{contract[-4:]}"
        return Finding("ledger", "pass", f"{url}, chain {chain_id}, contract {short}, {milliseconds:.0f} ms")
    advice = {
        "ledger.down": "check the URL and that it runs; the embedded one is: cactus-mesh devnet",
        "ledger.wrong_chain": "correct ledger or chain_id in the configuration, or name the --network",
        "ledger.rejected": "correct the contract's address for this chain",
        "config.missing": "set ledger, contract and chain_id, or name a known --network",
    }.get(error.code, "correct what the message names")
    return Finding("ledger", "fail", str(error).partition("; ")[0], advice)
