"""``python -m benchmarks NAME [--json]``; without a name, lists them."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from typing import TYPE_CHECKING, Protocol, cast

import benchmarks
from benchmarks.report import as_json, as_table

if TYPE_CHECKING:
    from benchmarks.report import Measurement, Target


class Benchmark(Protocol):
    TARGETS: tuple[Target, ...]

    def measure(self) -> Measurement: ...


def names() -> list[str]:
    found = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    return sorted(name for name in found if not name.startswith("_") and name != "report")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=names(), nargs="?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.name is None:
        print("\n".join(names()))
        sys.exit(0)
    benchmark = cast("Benchmark", importlib.import_module(f"benchmarks.{arguments.name}"))
    measurement = benchmark.measure()
    if arguments.json:
        print(as_json(arguments.name, measurement))
    else:
        print(as_table(arguments.name, measurement, benchmark.TARGETS))


if __name__ == "__main__":
    main()
