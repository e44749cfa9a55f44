"""A child process around the Move VM library: one JSON request a line, one JSON answer a line.

``{"load": [paths]}`` publishes modules at 0x1; ``{"call": {sender, module, function, arguments}}`` runs an entry
function and answers ``{"events": [[type, data]...]}`` or ``{"error": text, "wrote": bool}``; ``{"view": {...}}``
answers ``{"value": ...}``; ``{"mark": 0}`` remembers the state and ``{"reset": 0}`` returns to it; ``{"abi": path}``
decodes a module.  Addresses and arguments (BCS) are hex.
"""

from __future__ import annotations

import ctypes as c
import json
import struct
import sys
from pathlib import Path
from typing import Any, Final

from tests.contracts import ffi

GAS: Final = 10**12
CACHED_MODULES: Final = 100
CACHED_SCRIPTS: Final = 500
ADDRESS_ONE: Final = (1).to_bytes(32, "big")
UNSUPPORTED: Final = 5
"""The error number of a callback that the contract has no use for."""


class Slice(c.Structure):
    """Bytes that the library lends to a callback."""

    _fields_ = (("is_none", c.c_bool), ("ptr", c.POINTER(c.c_uint8)), ("len", c.c_size_t))


class Iterator(c.Structure):
    _fields_ = (("call_id", c.c_uint64), ("index", c.c_uint64), ("next", c.c_void_p), ("prefix_length", c.c_size_t))


_OUT = c.POINTER(ffi.UnmanagedVector)
_READ = c.CFUNCTYPE(c.c_int32, c.c_void_p, Slice, _OUT, _OUT)
_WRITE = c.CFUNCTYPE(c.c_int32, c.c_void_p, Slice, Slice, _OUT)
_REMOVE = c.CFUNCTYPE(c.c_int32, c.c_void_p, Slice, _OUT)
_SCAN = c.CFUNCTYPE(c.c_int32, c.c_void_p, Slice, Slice, Slice, c.c_int32, c.POINTER(Iterator), _OUT)
_ACCOUNT = c.CFUNCTYPE(
    c.c_int32,
    c.c_void_p,
    Slice,
    c.POINTER(c.c_bool),
    c.POINTER(c.c_uint64),
    c.POINTER(c.c_uint64),
    c.POINTER(c.c_uint8),
    c.POINTER(c.c_bool),
    _OUT,
)
_ANY = c.CFUNCTYPE(c.c_int32)


class Database(c.Structure):
    _fields_ = (("state", c.c_void_p), ("read", _READ), ("write", _WRITE), ("remove", _REMOVE), ("scan", _SCAN))


class Api(c.Structure):
    _fields_ = (
        ("state", c.c_void_p),
        ("query", _ANY),
        ("account", _ACCOUNT),
        ("to_sdk_address", _ANY),
        ("from_sdk_address", _ANY),
        ("unbonding", _ANY),
        ("price", _ANY),
    )


class MoveError(Exception):
    """The VM's own words."""


def _bytes(view: Slice) -> bytes:
    return c.string_at(view.ptr, view.len) if view.len else b""


class Vm:
    """The library over a dict of keys and values."""

    def __init__(self, path: str) -> None:
        self._library = library = ffi.load(path)
        self._kept: dict[bytes, bytes] = {}
        self._marked: dict[bytes, bytes] = {}
        self._calls = 0
        self.writes = 0
        gas = c.POINTER(c.c_uint64)
        library.new_unmanaged_vector.restype = ffi.UnmanagedVector
        library.new_unmanaged_vector.argtypes = [c.c_bool, c.c_char_p, c.c_size_t]
        library.allocate_vm.restype, library.allocate_vm.argtypes = c.c_void_p, [ffi.View]
        for name, leading, views in (
            ("initialize", [c.c_void_p], 3),
            ("execute_contract", [c.c_void_p, gas], 3),
            ("execute_view_function", [c.c_void_p, gas], 2),
        ):
            function = getattr(library, name)
            function.restype = ffi.UnmanagedVector
            function.argtypes = [*leading, Database, Api, *[ffi.View] * views, _OUT]
        library.decode_module_bytes.restype = ffi.UnmanagedVector
        library.decode_module_bytes.argtypes = [_OUT, ffi.View]
        self._database = Database(
            None, _READ(self._read), _WRITE(self._write), _REMOVE(self._remove), _SCAN(self._refuse)
        )
        nothing = _ANY(lambda: UNSUPPORTED)
        self._api = Api(None, nothing, _ACCOUNT(self._account), nothing, nothing, nothing, nothing)
        self._vm = library.allocate_vm(ffi.lend(b"\x01" + struct.pack("<QQ", CACHED_MODULES, CACHED_SCRIPTS)))

    # what the library asks

    def _read(self, _: Any, key: Slice, out: Any, error: Any) -> int:
        value = self._kept.get(_bytes(key))
        out[0] = self._library.new_unmanaged_vector(value is None, value, 0 if value is None else len(value))
        return 0

    def _write(self, _: Any, key: Slice, value: Slice, error: Any) -> int:
        self._kept[_bytes(key)] = _bytes(value)
        self.writes += 1
        return 0

    def _remove(self, _: Any, key: Slice, error: Any) -> int:
        self._kept.pop(_bytes(key), None)
        self.writes += 1
        return 0

    def _refuse(self, *_: Any) -> int:
        return UNSUPPORTED

    def _account(self, _: Any, address: Slice, found: Any, *rest: Any) -> int:
        found[0] = False
        return 0

    # what it is asked

    def load(self, modules: list[bytes]) -> None:
        bundle = ffi.uleb128(len(modules)) + b"".join(map(ffi.blob, modules))
        self._run(
            self._library.initialize,
            self._vm,
            self._database,
            self._api,
            *map(ffi.lend, (self._environment(), bundle, b"\x00")),
        )

    def call(self, sender: bytes, module: str, function: str, arguments: list[bytes]) -> list[tuple[str, str]]:
        message = b"\x01" + sender
        entry = self._entry(module, function, arguments)
        return _events(self._execute(self._library.execute_contract, message, entry))

    def view(self, module: str, function: str, arguments: list[bytes]) -> str:
        entry = self._entry(module, function, arguments)
        data = self._execute(self._library.execute_view_function, entry)
        return _text(data, 0)[0]

    def mark(self) -> None:
        self._marked = dict(self._kept)

    def reset(self) -> None:
        self._kept = dict(self._marked)

    def decode(self, module: bytes) -> str:
        error = ffi.none()
        result = self._library.decode_module_bytes(c.byref(error), ffi.lend(module))
        return self._checked(error, result).decode()

    def _execute(self, function: Any, *last: bytes) -> bytes:
        gas = c.c_uint64(GAS)
        views = map(ffi.lend, (self._environment(), *last))
        return self._run(function, self._vm, c.byref(gas), self._database, self._api, *views)

    def _run(self, function: Any, *arguments: Any) -> bytes:
        error = ffi.none()
        return self._checked(error, function(*arguments, c.byref(error)))

    def _checked(self, error: ffi.UnmanagedVector, result: ffi.UnmanagedVector) -> bytes:
        said, data = ffi.take(self._library, error), ffi.take(self._library, result)
        if said is not None:
            raise MoveError(said.decode(errors="replace"))
        return data or b""

    def _environment(self) -> bytes:
        """Block height, block time, gas limit, and two hashes that make each call's object names unique."""
        self._calls += 1
        unique = struct.pack("<Q", self._calls) + bytes(24)
        return struct.pack("<QQQ", self._calls, self._calls, 100) + unique + unique

    @staticmethod
    def _entry(module: str, function: str, arguments: list[bytes]) -> bytes:
        packed = ffi.uleb128(len(arguments)) + b"".join(map(ffi.blob, arguments))
        return ADDRESS_ONE + ffi.text(module) + ffi.text(function) + b"\x00" + packed + b"\x00"


def _text(data: bytes, at: int) -> tuple[str, int]:
    length = shift = 0
    while True:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return data[at : at + length].decode(), at + length


def _events(data: bytes) -> list[tuple[str, str]]:
    """The first field of the VM's `ExecutionResult`."""
    count, at, events = data[0], 1, []
    if count >= 0x80:
        count, at = count & 0x7F | data[1] << 7, 2
    for _ in range(count):
        kind, at = _text(data, at)
        value, at = _text(data, at)
        events.append((kind, value))
    return events


def answer(vm: Vm, request: dict[str, Any]) -> dict[str, Any]:
    ((verb, what),) = request.items()
    match verb:
        case "load":
            vm.load([Path(path).read_bytes() for path in what])
        case "call":
            arguments = [bytes.fromhex(each) for each in what["arguments"]]
            events = vm.call(bytes.fromhex(what["sender"]), what["module"], what["function"], arguments)
            return {"events": [(kind, json.loads(data)) for kind, data in events]}
        case "view":
            arguments = [bytes.fromhex(each) for each in what["arguments"]]
            return {"value": json.loads(vm.view(what["module"], what["function"], arguments))}
        case "mark":
            vm.mark()
        case "reset":
            vm.reset()
        case "abi":
            return {"value": json.loads(vm.decode(Path(what).read_bytes()))}
    return {}


def main(path: str) -> None:
    vm = Vm(path)
    for line in sys.stdin:
        before = vm.writes
        try:
            reply = answer(vm, json.loads(line))
        except MoveError as error:
            reply = {"error": str(error), "wrote": vm.writes != before}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
