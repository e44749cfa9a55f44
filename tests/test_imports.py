"""Who may import whom, read from the source of every module: lazy imports and those for types alone count too."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cactus_mesh"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

TENSORS = {"torch", "transformers", "tokenizers", "safetensors", "llguidance"}
HOME_OF = {
    "libp2p": ("net/",),
    "hypercorn": ("gateway/connections.py",),
    "starlette": ("gateway/",),
    "prometheus_client": ("gateway/metrics.py", "observability/"),
    "opentelemetry": ("observability/tracing.py",),
    "multiaddr": ("net/",),
    "aptos_sdk": ("ledger/",),
    **dict.fromkeys(TENSORS, ("engine/runner/", "engine/selftest/make_model.py")),
    "numpy": ("engine/runner/", "engine/gaps.py", "engine/sampling.py", "engine/selftest/make_model.py"),
}
"""Libraries that only these parts may know."""

ADAPTERS = ("net", "engine", "ledger")
FOUNDATION = {"errors", "identity", "messages"}
BELOW_ADAPTERS = FOUNDATION | {"config", "home", "ports", "concurrency", "clock", "files", "database", "spans", "core"}
SHELLS = {
    "authorised",
    "directory",
    "topics",
    "dispatch",
    "delegated",
    "outcomes",
    "routed",
    "router",
    "orchestrator",
    "client",
    "answer",
    "heard",
    "herald",
    "settling",
    "journal",
    "auditing",
    "verifiers",
    "verifying",
    "disputing",
    "dossier",
    "book",
    "claims",
    "asking",
    "purse",
    "events",
    "routers",
    "itself",
    "records",
    "noting",
}
NOT_PURE = {
    "trio",
    "time",
    "datetime",
    "socket",
    "ssl",
    "asyncio",
    "threading",
    "subprocess",
    "os",
    "secrets",
    "logging",
}


@cache
def imports(name: str) -> frozenset[str]:
    """The full names of what a module imports: ``a.b`` for ``import a.b`` and for ``from a import b``."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def libraries(name: str) -> set[str]:
    return {each.split(".")[0] for each in imports(name)}


def parts(name: str) -> set[str]:
    """The parts of this package that a module imports: ``core``, ``net``, ``errors``, ..."""
    return {each.split(".")[1] for each in imports(name) if each.startswith("cactus_mesh.")}


def part_of(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def modules_of(*wanted: str) -> list[str]:
    return [name for name in FILES if part_of(name) in wanted]


def test_every_module_has_its_place():
    """A new top-level module must be put into a layer here, or nothing would be checked of it."""
    on_top = {"__init__", "__main__", "node", "cli", "demo", "control", "lifetime", "terminal", "processes"}
    on_top |= {"portal", "aio", "sync", "gateway", "doctor", "known", "service", "snapshot", "visit"}
    on_top |= {"calibration", "adapters", "observability", "backup", "live", "clients"}
    known = BELOW_ADAPTERS | set(ADAPTERS) | SHELLS | on_top | {"testing"}
    assert {part_of(name) for name in FILES} == known


def test_there_is_something_to_check():
    assert {"core", "net", "engine", "ledger", *SHELLS} <= {part_of(name) for name in FILES}
    assert "libp2p" in set().union(*map(libraries, modules_of("net")))


@pytest.mark.parametrize("library", HOME_OF)
def test_a_library_is_known_only_at_its_home(library):
    strangers = [name for name in FILES if library in libraries(name) and not name.startswith(HOME_OF[library])]
    assert strangers == []


@pytest.mark.parametrize("name", modules_of("core"))
def test_the_core_is_pure(name):
    assert libraries(name) & NOT_PURE == set()
    assert parts(name) <= FOUNDATION | {"core", "ports"}
    assert {each for each in imports(name) if each.startswith("random")} <= {"random.Random"}


@pytest.mark.parametrize("name", [name for name in modules_of("core") if "ports" in parts(name)])
def test_the_core_sees_ports_as_types_only(name):
    guarded = [
        ast.unparse(line)
        for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8")))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in node.body
    ]
    assert any("cactus_mesh.ports" in line for line in guarded)


@pytest.mark.parametrize(
    "name", modules_of(*FOUNDATION, "ports", "config", "concurrency", "clock", "files", "database", "spans")
)
def test_what_lies_below_knows_nothing_of_what_lies_above(name):
    above = set(ADAPTERS) | SHELLS | {"node", "gateway", "cli", "demo", "testing"}
    assert parts(name) & above == set()


@pytest.mark.parametrize("name", modules_of(*ADAPTERS))
def test_adapters_never_import_each_other(name):
    assert parts(name) <= BELOW_ADAPTERS | {part_of(name), "__version__"}


@pytest.mark.parametrize("name", modules_of(*SHELLS))
def test_the_shells_work_on_ports_and_not_on_adapters(name):
    assert parts(name) <= BELOW_ADAPTERS | SHELLS


@pytest.mark.parametrize("name", modules_of("gateway"))
def test_the_gateway_is_one_more_user_of_a_client(name):
    allowed = {"answer", "asking", "client", "files", "gateway"}
    assert parts(name) <= BELOW_ADAPTERS | allowed


def test_production_code_never_imports_what_is_there_for_tests():
    users = [name for name in FILES if parts(name) & {"testing"} and part_of(name) != "testing"]
    assert users == []
    assert [name for name in FILES if libraries(name) & {"tests", "pytest", "hypothesis"}] == []


def test_the_ledgers_rules_are_a_pure_state_machine():
    impure = {name: libraries(name) & (NOT_PURE | {"httpx"}) for name in FILES if name.startswith("ledger/rules/")}
    assert {name: found for name, found in impure.items() if found} == {}


def loaded_by(module: str) -> set[str]:
    """The libraries that a fresh interpreter has loaded once it has imported *module*."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["cactus_mesh", "cactus_mesh.cli", "cactus_mesh.config", "cactus_mesh.client"])
def test_what_is_heavy_is_not_loaded_before_it_is_needed(module):
    assert importlib.util.find_spec(module) is not None
    heavy = {"libp2p", "aptos_sdk", "hypercorn", "starlette", "httpx", "zeroconf", "numpy", *TENSORS}
    assert loaded_by(module) & heavy == set()
