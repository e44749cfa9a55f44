"""How far an honest replay may be from what was claimed, for each model, dtype and kind of device.

Measured by ``cactus-mesh calibrate`` and kept in a file.  A model that nobody has calibrated is held against the entry
for any model of its dtype; where there is none, a replay can raise doubts but fails only on what is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from cactus_mesh.errors import StateMalformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.messages import WorkKind

VERSION: Final = 1
ANY_MODEL: Final = "*"
MARGIN: Final = 10.0
"""Between the worst that was measured and what passes, and again between that and what fails."""
READING_MARGIN: Final = 3.0
"""In place of the second of these for what was read: a distance sums up many roundings, and so has no long tail."""
LEAST_NOISE: Final = 1e-6
"""A single rounds a log-probability of -16 by as much: no measurement may claim to be finer."""
_DEVICES: Final = ("cpu", "cuda", "mps", "xpu")

ReadsAs = Literal["classify", "embed", "rerank"]
_Positive = Annotated[float, Meta(gt=0)]


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """*gap_noise*: a token further than this (in logits) from being chosen is a mismatch; beyond *gap_fail* one is
    enough.  *mismatch_share*: of an answer's tokens.  *logprob_pass*, *logprob_fail*: roots of mean square errors.
    *honest_rate*: how many of its tokens an honest machine may mismatch in the long run.
    """

    gap_noise: _Positive
    gap_fail: _Positive
    mismatch_share: Annotated[float, Meta(gt=0, lt=1)] = 0.02
    logprob_pass: _Positive
    logprob_fail: _Positive
    honest_rate: Annotated[float, Meta(gt=0, lt=5e-4)] = 1e-5
    calibrated: bool = True

    def __post_init__(self) -> None:
        if self.gap_noise > self.gap_fail or self.logprob_pass > self.logprob_fail:
            raise ValueError("what fails must lie above what passes")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What honest replays showed: how many tokens, and the worst of each number in any answer."""

    tokens: int
    answers: int
    largest_gap: float
    logprob_error: float


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """*digest* in hex, or ``*`` for any model; *device* as `device_pair` names it."""

    digest: Annotated[str, Meta(pattern=r"^(\*|[0-9a-f]{64})$")]
    name: str
    dtype: str
    device: str
    thresholds: Thresholds
    measured: Measured | None = None
    reads: ReadsAs | None = None
    """What a model that reads texts whole makes of them: its gaps are distances (see `core.readings`)."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    entries: list[Entry]


UNCALIBRATED: Final = Thresholds(gap_noise=1e-3, gap_fail=1e-2, logprob_pass=1e-5, logprob_fail=1e-4, calibrated=False)
UNCALIBRATED_READING: Final = Thresholds(
    gap_noise=0.5, gap_fail=1.0, logprob_pass=1e-5, logprob_fail=1e-4, calibrated=False
)
"""Ten times what honest machines were seen to differ by in the coarsest dtype."""


class Table:
    """All that is known; later entries replace earlier ones for the same model, dtype, device and reading."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self._entries = {(entry.digest, entry.dtype, entry.device, entry.reads): entry for entry in entries}

    @property
    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def find(self, digest: bytes, dtype: str, device: str, kind: WorkKind = "generate") -> Thresholds:
        reading = reading_of(kind)
        for name in (digest.hex(), ANY_MODEL):
            if entry := self._entries.get((name, dtype, device, reading)):
                return entry.thresholds
        return UNCALIBRATED if reading is None else UNCALIBRATED_READING

    def with_entries(self, entries: Sequence[Entry]) -> Table:
        return Table([*self.entries, *entries])


def reading_of(kind: WorkKind) -> ReadsAs | None:
    return None if kind == "chat" or kind == "generate" else kind


def device_of(engine: str) -> str:
    """The kind of device that an engine's label names (``… on cuda``); those that name none count as processors.

    A label is its owner's word.  Nothing is gained by a false one: the thresholds of processors are the narrowest.
    """
    word = engine.rpartition(" on ")[2].partition(":")[0]
    return word if word in _DEVICES else "cpu"


def device_pair(one: str, other: str) -> str:
    """Two engines that compute on the same kind of device differ less than two that do not."""
    return one if one == other else "+".join(sorted((one, other)))


def measured_thresholds(measured: Measured) -> Thresholds:
    """Thresholds that stand well clear of the worst that honest replays have shown."""
    error = max(measured.logprob_error, LEAST_NOISE)
    # two tokens that near to each other are rare: how near they may be is also told by how far all numbers are off
    gap = max(measured.largest_gap, MARGIN * error, 100 * LEAST_NOISE)
    return Thresholds(
        gap_noise=MARGIN * gap,
        gap_fail=MARGIN * MARGIN * gap,
        logprob_pass=MARGIN * error,
        logprob_fail=MARGIN * MARGIN * error,
    )


def reading_thresholds(measured: Measured, least: float) -> Thresholds:
    """As `measured_thresholds`, where gaps are distances, and taken for *least* where they were smaller.

    One machine always computes with the same kernels: it cannot see how far another kind of processor is off.
    """
    gap = max(measured.largest_gap, least, LEAST_NOISE)
    return Thresholds(
        gap_noise=MARGIN * gap,
        gap_fail=READING_MARGIN * MARGIN * gap,
        logprob_pass=MARGIN * LEAST_NOISE,
        logprob_fail=MARGIN * MARGIN * LEAST_NOISE,
    )


def read_table(data: bytes, source: str) -> Table:
    """Raises `StateMalformed` with what is wrong in *source*."""
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise StateMalformed(
            f"{source} is no file of thresholds ({error}); make one with: cactus-mesh calibrate"
        ) from None
    if file.version != VERSION:
        raise StateMalformed(f"{source} has version {file.version} and this program reads {VERSION}; calibrate again")
    return Table(file.entries)


def write_table(table: Table) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_File(VERSION, table.entries)), indent=2) + b"\n"
