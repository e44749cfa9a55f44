"""What Move modules declare, read from their source: to hold the offline framework to the real one.

Reads declarations only.  Parameter names, module prefixes and the names of type parameters do not matter; types,
abilities, constraints and visibility do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Function:
    """A public function: the constraints of its type parameters, its parameters' types, what it returns."""

    constraints: tuple[str, ...]
    parameters: tuple[str, ...]
    returns: str


@dataclass(frozen=True, slots=True)
class Record:
    """A struct or enum: the constraints of its type parameters and its abilities."""

    constraints: tuple[str, ...]
    abilities: frozenset[str]


Declarations = dict[str, Function | Record]
"""By ``module::name``."""


def read_modules(paths: Iterable[Path]) -> Declarations:
    found: Declarations = {}
    for path in paths:
        found |= declarations(path.read_text(encoding="utf-8"))
    return found


def declarations(source: str) -> Declarations:
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)
    pieces = re.split(r"\bmodule\s+\w+::(\w+)\s*[{;]", text)[1:]
    found: Declarations = {}
    for module, body in zip(pieces[::2], pieces[1::2], strict=True):
        found |= {f"{module}::{name}": each for name, each in _functions(body)}
        found |= {f"{module}::{name}": each for name, each in _records(body)}
    return found


_FUNCTION = re.compile(r"\bpublic\s+(?:native\s+|entry\s+|inline\s+)*fun\s+(\w+)|\bnative\s+public\s+fun\s+(\w+)")


def _functions(body: str) -> Iterator[tuple[str, Function]]:
    for match in _FUNCTION.finditer(body):
        constraints, names, at = _type_parameters(body, match.end())
        inside, at = _balanced(body, body.index("(", at))
        if "|" in inside:
            continue  # takes a function, so it is inline, and nothing that is called here
        parameters = tuple(_plain(each.split(":", 1)[1], names) for each in _split(inside))
        returned = re.match(r"\s*:\s*(.+?)\s*(?:\bacquires\b[^{;]*)?[{;]", body[at:], re.DOTALL)
        returns = _plain(returned[1], names) if returned else "()"
        yield match[1] or match[2], Function(constraints, parameters, returns)


def _records(body: str) -> Iterator[tuple[str, Record]]:
    for match in re.finditer(r"\b(?:struct|enum)\s+(\w+)", body):
        constraints, _, at = _type_parameters(body, match.end())
        abilities = re.match(r"\s*has\s+([\w,\s]+)", body[at:])
        named = frozenset(re.findall(r"\w+", abilities[1])) if abilities else frozenset()
        yield match[1], Record(constraints, named)


def _type_parameters(body: str, at: int) -> tuple[tuple[str, ...], list[str], int]:
    """Constraints by position, names, and where the list ends."""
    if body[at : at + 1] != "<":
        return (), [], at
    inside, end = _balanced(body, at)
    pairs = [each.partition(":")[::2] for each in _split(inside)]
    names = [name.replace("phantom", "").strip() for name, _ in pairs]
    return tuple("+".join(sorted(re.findall(r"\w+", limits))) for _, limits in pairs), names, end


def _balanced(body: str, at: int) -> tuple[str, int]:
    """What stands between the bracket at *at* and its partner, and the place after that."""
    depth = 0
    for index in range(at, len(body)):
        depth += (body[index] in "(<") - (body[index] in ")>")
        if depth == 0:
            return body[at + 1 : index], index + 1
    raise ValueError("a bracket is not closed")


def _split(inside: str) -> list[str]:
    pieces, depth, start = [], 0, 0
    for index, character in enumerate(inside):
        depth += (character in "(<") - (character in ")>")
        if character == "," and depth == 0:
            pieces.append(inside[start:index])
            start = index + 1
    return [each for each in (*pieces, inside[start:]) if each.strip()]


def _plain(kind: str, names: list[str]) -> str:
    kind = re.sub(r"\s+", "", re.sub(r"\bmut\s", "mut_", kind))
    kind = re.sub(r"\w+::", "", kind)
    for position, name in enumerate(names):
        kind = re.sub(rf"\b{name}\b", f"T{position}", kind)
    return kind


def differences(offline: Declarations, real: Declarations) -> list[str]:
    """What the offline framework declares and the real one does not declare in the same way."""
    return [f"{name}: here {each}, there {real.get(name)}" for name, each in offline.items() if real.get(name) != each]
