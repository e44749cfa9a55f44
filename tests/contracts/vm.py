"""The Move VM as the tests see it: the contract published at 0x1, calls and views with Python values."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cactus_mesh.identity import Address
from cactus_mesh.ledger.values import address_bytes, encode
from tests.contracts.toolchain import ENVIRONMENT, ROOT, Toolchain, compiler, vm_package

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LAST = ("cactus_payment", "hooks")
CONTRACT = Address("0x" + "1".zfill(64))
_ABORTED = re.compile(r"location=0*1::(\w+), code=(\d+)")


class MoveAbort(Exception):
    """An entry ended with *code* in *module*; *wrote* would mean that it changed the state nevertheless."""

    def __init__(self, module: str, code: int, wrote: bool) -> None:
        super().__init__(f"{module}: {code:#x}")
        self.module = module
        self.code = code
        self.wrote = wrote


class VmFailed(Exception):
    """The VM said something that is no abort, or ended."""


class MoveVm:
    """One child process with one state."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, verb: str, what: Any = 0) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({verb: what}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            raise VmFailed(f"the Move VM is gone: {error}") from error
        if not line:
            raise VmFailed(f"the Move VM ended with {self._process.wait(10)}")
        reply = json.loads(line)
        if "error" not in reply:
            return reply
        aborted = _ABORTED.search(reply["error"])
        if aborted is None:
            raise VmFailed(reply["error"])
        raise MoveAbort(aborted[1], int(aborted[2]), reply["wrote"])

    def call(
        self, sender: str, module: str, function: str, types: Sequence[str], values: Sequence[Any]
    ) -> list[tuple[str, Any]]:
        """The events of an entry function, by struct name.  Raises `MoveAbort`."""
        request = self._request(module, function, types, values) | {"sender": address_bytes(sender).hex()}
        return [(kind.rsplit("::", 1)[1], data) for kind, data in self.ask("call", request)["events"]]

    def view(self, module: str, function: str, types: Sequence[str], values: Sequence[Any]) -> Any:
        return self.ask("view", self._request(module, function, types, values))["value"]

    @staticmethod
    def _request(module: str, function: str, types: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
        arguments = [encode(kind, value).hex() for kind, value in zip(types, values, strict=True)]
        return {"module": module, "function": function, "arguments": arguments}


def build(tools: Toolchain, folder: Path) -> list[Path]:
    """The compiled modules of the contract, its framework and its hooks."""
    package = vm_package(folder)
    compiler(tools, "build", package)
    modules = sorted(package.glob("build/vm/bytecode_modules/*.mv"))
    return sorted(modules, key=lambda path: path.stem in LAST)  # the VM runs each init_module in the order given


@contextmanager
def open_vm(tools: Toolchain, modules: list[Path], *, chain_id: int, now: int) -> Iterator[MoveVm]:
    """A VM with the contract as it is after publication by 0x1; `reset` returns to that."""
    command = [sys.executable, "-m", "tests.contracts.libmovevm", str(tools.vm)]
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        vm = MoveVm(process)
        vm.ask("load", [str(path) for path in modules])
        vm.call(CONTRACT, "genesis", "start", ("u8", "u64"), (chain_id, now))
        vm.ask("mark")
        try:
            yield vm
        finally:
            assert process.stdin is not None
            process.stdin.close()
