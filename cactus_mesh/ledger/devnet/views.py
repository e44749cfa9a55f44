"""View functions: asked in JSON or BCS, answered in JSON or BCS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cactus_mesh.ledger import contract, rules
from cactus_mesh.ledger.devnet.abi import struct_types, view_returns
from cactus_mesh.ledger.devnet.framework import FRAMEWORK, FUNCTIONS, Failed
from cactus_mesh.ledger.devnet.refusals import bad_input
from cactus_mesh.ledger.values import Json, Value, encode_json, from_json, option, to_json, uleb128

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.ledger.devnet.transactions import Call
    from cactus_mesh.ledger.rules import State

_NO_VIEW: Final = "there is no view function {}::{} with these type arguments"


def view_call(state: State, call: Call) -> tuple[tuple[str, ...], list[Json]]:
    """A view with BCS arguments: the types of what it returns, and that as JSON.  Raises `Refused`."""
    return _view(state, call.module, call.function, call.type_arguments, contract.decode_arguments, call.arguments)


def view_json(
    state: State, module: str, function: str, type_arguments: tuple[str, ...], data: list[Json]
) -> tuple[tuple[str, ...], list[Json]]:
    """A view with JSON arguments, likewise.  Raises `Refused`."""
    return _view(state, module, function, type_arguments, _from_json, data)


def to_bcs(state: State, types: tuple[str, ...], values: list[Json]) -> bytes:
    """What a view returned, as BCS: how many values, then these one after the other."""
    structs = struct_types(state.contract)
    encoded = [encode_json(kind, value, structs) for kind, value in zip(types, values, strict=True)]
    return uleb128(len(encoded)) + b"".join(encoded)


def _from_json(types: tuple[str, ...], data: list[Json]) -> list[Value]:
    return [from_json(kind, value) for kind, value in zip(types, data, strict=True)]


def _view(
    state: State,
    module: str,
    function: str,
    type_arguments: tuple[str, ...],
    read: Callable[[tuple[str, ...], list[Json]], list[Value]],
    data: list[Json],
) -> tuple[tuple[str, ...], list[Json]]:
    takes, returns, run = _find(state, module, function, type_arguments)
    try:
        arguments = read(takes, data)
    except ValueError as error:
        raise bad_input(f"Failed to parse the arguments of {function}: {error}") from None
    try:
        return returns, [run(state, *arguments)]
    except Failed as failed:
        raise bad_input(f"Failed to execute function: {failed}") from None


def _find(
    state: State, module: str, function: str, type_arguments: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...], Callable[..., Json]]:
    address, name = module.split("::")
    if module == f"{state.contract}::{contract.MODULE}" and function in contract.VIEW_TYPES and not type_arguments:
        return contract.VIEW_TYPES[function], view_returns(state.contract)[function], _contract_view(function)
    known = FUNCTIONS.get((name, function)) if address == FRAMEWORK else None
    if known is None or known.entry or known.type_arguments != type_arguments:
        raise bad_input(_NO_VIEW.format(module, function))
    return known.kinds, known.returns, known.run


def _contract_view(function: str) -> Callable[..., Json]:
    shown = option if function in contract.OPTIONAL_VIEWS else to_json
    return lambda state, *arguments: shown(rules.VIEWS[function](state, *arguments))
