"""The tensors that hold keys and values, layer by layer, laid out as `engine.shelves` decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import torch

from cactus_mesh.engine.prefixes import BLOCK_TOKENS
from cactus_mesh.engine.scheduler import Keep, Reuse
from cactus_mesh.engine.shelves import Move, Resize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cactus_mesh.engine.scheduler import Change
    from cactus_mesh.engine.shelves import Place


@dataclass(frozen=True, slots=True)
class CacheShape:
    """One layer: key-value heads, and the sizes of a key and of a value."""

    heads: int
    key_size: int
    value_size: int


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """What one token takes in all layers."""

    layers: tuple[CacheShape, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        numbers = sum(layer.heads * (layer.key_size + layer.value_size) for layer in self.layers)
        return numbers * self.dtype.itemsize


class Memory:
    """A shelf's keys and values of a layer have the shape (rows, heads, tokens, size)."""

    def __init__(self, layout: CacheLayout) -> None:
        self._layout = layout
        self._keys: dict[int, list[torch.Tensor]] = {}
        self._values: dict[int, list[torch.Tensor]] = {}
        self._blocks: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def layer(self, shelf: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._keys[shelf][layer], self._values[shelf][layer]

    def change(self, changes: Iterable[Change]) -> None:
        for change in changes:
            match change:
                case Resize():
                    self._resize(change.shelf, change.rows)
                case Move():
                    for tensor in self._tensors(change.shelf):
                        tensor[change.target] = tensor[change.source]
                case Reuse():
                    self._reuse(change)
                case Keep():
                    self._keep(change)
                case _:
                    assert_never(change)

    def clear(self, place: Place) -> None:
        """A row that holds what is no number would spoil those that use it next, even where it is masked."""
        for tensor in self._tensors(place.shelf):
            tensor[place.row].zero_()

    def _tensors(self, shelf: int) -> list[torch.Tensor]:
        return [*self._keys[shelf], *self._values[shelf]]

    def _resize(self, shelf: int, rows: int) -> None:
        if rows == 0:
            del self._keys[shelf], self._values[shelf]
            return
        if shelf not in self._keys:
            self._keys[shelf] = [self._empty(rows, each.heads, shelf, each.key_size) for each in self._layout.layers]
            self._values[shelf] = [
                self._empty(rows, each.heads, shelf, each.value_size) for each in self._layout.layers
            ]
            return
        for tensors in (self._keys[shelf], self._values[shelf]):
            for at, old in enumerate(tensors):  # one by one, so that never more than one is there twice
                new = self._empty(rows, *old.shape[1:])
                kept = min(rows, old.shape[0])
                new[:kept] = old[:kept]
                tensors[at] = new

    def _empty(self, *shape: int) -> torch.Tensor:
        """Zeros: what is masked out must still be a number."""
        return torch.zeros(shape, dtype=self._layout.dtype, device=self._layout.device)

    def _reuse(self, change: Reuse) -> None:
        for at, number in enumerate(change.numbers):
            tokens = slice(at * BLOCK_TOKENS, (at + 1) * BLOCK_TOKENS)
            for layer, (keys, values) in enumerate(self._blocks[number]):
                self._keys[change.place.shelf][layer][change.place.row, :, tokens] = keys
                self._values[change.place.shelf][layer][change.place.row, :, tokens] = values

    def _keep(self, change: Keep) -> None:
        tokens = slice(change.start, change.start + BLOCK_TOKENS)
        shelf, row = change.place.shelf, change.place.row
        self._blocks[change.number] = [
            (keys[row, :, tokens].clone(), values[row, :, tokens].clone())
            for keys, values in zip(self._keys[shelf], self._values[shelf], strict=True)
        ]
