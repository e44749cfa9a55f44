"""A child process around the compiler library: ``libcompiler PATH build|test|compile-tests|coverage|docs PACKAGE``."""

from __future__ import annotations

import ctypes
import struct
import sys
from pathlib import Path
from typing import Final

from tests.contracts import ffi

BYTECODE_VERSION: Final = 7
LANGUAGE: Final = "2.1"
_FUNCTIONS: Final = {
    "build_move_package": 1,
    "test_move_package": 2,
    "coverage_summary_move_package": 2,
    "docgen_move_package": 2,
}


def build_options(package: str, *, test: bool) -> bytes:
    """`CompilerArguments` in BCS."""
    return b"".join(
        (
            ffi.optional_text(package),
            ffi.flag(False),  # verbose
            ffi.flag(True),  # dev mode: dev-addresses
            ffi.flag(test),
            ffi.flag(False),  # docs
            ffi.flag(False),  # abis
            ffi.optional_text(None),  # install directory
            ffi.flag(False),  # force recompilation
            ffi.flag(False),  # fetch dependencies only
            ffi.flag(True),  # skip fetching the latest git dependencies
            struct.pack("<I", BYTECODE_VERSION),
            ffi.text(LANGUAGE),  # compiler version
            ffi.text(LANGUAGE),
            ffi.uleb128(0),  # additional named addresses
        )
    )


def unit_test_options(only: str | None) -> bytes:
    """Which tests; no statistics, no storage dump, warnings are no errors, coverage."""
    return ffi.optional_text(only) + b"".join(map(ffi.flag, (False, False, False, only is None)))


def coverage_options() -> bytes:
    """By function, as CSV."""
    return ffi.flag(True) + ffi.flag(True)


def docs_options() -> bytes:
    return ffi.flag(False) * 5 + b"\x00\x00"


def run(library: ctypes.CDLL, function: str, *payloads: bytes) -> tuple[bool, str]:
    error = ffi.none()
    result = getattr(library, function)(ctypes.byref(error), *map(ffi.lend, payloads))
    said, answer = ffi.take(library, error), ffi.take(library, result)
    return said is None, (said if said is not None else answer or b"").decode(errors="replace")


def main(path: str, command: str, package: str) -> int:
    library = ffi.load(path)
    for name, payloads in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = (
            ffi.UnmanagedVector,
            [
                ctypes.POINTER(ffi.UnmanagedVector),
                *[ffi.View] * payloads,
            ],
        )
    package = str(Path(package).absolute())
    match command:
        case "build":
            good, said = run(library, "build_move_package", build_options(package, test=False))
        case "test":
            good, said = run(library, "test_move_package", build_options(package, test=True), unit_test_options(None))
        case "compile-tests":
            options = build_options(package, test=True)
            good, said = run(library, "test_move_package", options, unit_test_options("no test has this name"))
        case "coverage":
            options = build_options(package, test=True)
            good, said = run(library, "coverage_summary_move_package", options, coverage_options())
        case "docs":
            good, said = run(library, "docgen_move_package", build_options(package, test=False), docs_options())
        case _:
            raise SystemExit(f"unknown command {command}")
    sys.stdout.flush()
    print(said)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
