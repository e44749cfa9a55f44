"""What every benchmark returns, and how it is printed."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Target:
    """A figure: its key, what it means, and the bound that we aim for (None where there is none)."""

    key: str
    meaning: str
    relation: Literal["<=", ">="] | None = None
    bound: float | None = None

    def reached(self, value: float) -> bool | None:
        if self.bound is None:
            return None
        return value <= self.bound if self.relation == "<=" else value >= self.bound


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures by key, how many interleaved runs they are the medians of, and the rows that they count, if any."""

    figures: dict[str, float]
    runs: int
    rows: Sequence[Mapping[str, object]] = ()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which *share* (0 to 1) of *values* lie; nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, str | int]:
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
    }


def as_json(name: str, measurement: Measurement) -> str:
    figures = {key: round(value, 4) for key, value in measurement.figures.items()}
    rows = {"rows": list(measurement.rows)} if measurement.rows else {}
    return json.dumps({"benchmark": name, "figures": figures, "runs": measurement.runs, "machine": machine(), **rows})


def as_table(name: str, measurement: Measurement, targets: Sequence[Target]) -> str:
    lines = [f"{name}: medians of {measurement.runs} interleaved runs"]
    by_key = {target.key: target for target in targets}
    for key, value in measurement.figures.items():
        target = by_key.get(key)
        bound = f"target {target.relation} {target.bound:g}" if target and target.bound is not None else ""
        mark = {True: "reached", False: "MISSED", None: ""}[target.reached(value) if target else None]
        lines.append(f"  {key:24} {value:12.3f}  {bound:18} {mark:8} {target.meaning if target else ''}".rstrip())
    return "\n".join([*lines, *_rows(measurement.rows)])


def _rows(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """In columns, under the names of the first row's keys."""
    if not rows:
        return []
    table = [list(rows[0]), *([str(row.get(key, "")) for key in rows[0]] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table),
    ]
