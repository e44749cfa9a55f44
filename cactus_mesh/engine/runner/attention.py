"""Attention over texts of different lengths in one forward pass, behind transformers' own interface for it.

A model sees one long row of tokens; each text attends to its own keys and values alone.  Masks are additive floats:
a boolean one is right in one kernel and added as a number in another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from cactus_mesh.errors import ModelUnsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from cactus_mesh.engine.runner.memory import Memory
    from cactus_mesh.engine.scheduler import Piece

_names = count()
UNSUPPORTED = ("s_aux", "position_bias", "head_mask")
"""What some architectures add to attention and this one does not know."""


@dataclass(frozen=True)
class Group:
    """Tokens ``begin .. end`` of the pass: *rows* rows of a shelf from *row* on, with *tokens* tokens each.

    Rows of one token each are at the *positions*; a single row of several begins at its position.
    """

    begin: int
    end: int
    shelf: int
    row: int
    rows: int
    positions: tuple[int, ...]
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def tokens(self) -> int:
        return (self.end - self.begin) // self.rows

    @cached_property
    def alike(self) -> bool:
        """Whether these are single tokens at the ends of equally long texts."""
        return self.tokens == 1 and min(self.positions) == max(self.positions)

    @cached_property
    def length(self) -> int:
        """Tokens that the longest of its texts has with this pass."""
        return max(self.positions) + self.tokens


def groups_of(pieces: Sequence[Piece]) -> list[Group]:
    """*pieces* in order: neighbours on a shelf that read one token each are computed together."""
    groups: list[Group] = []
    begin = 0
    for piece in pieces:
        end = begin + piece.end - piece.start
        last = groups[-1] if groups else None
        joins = (
            last is not None
            and end - begin == last.tokens == 1
            and (last.shelf, last.row + last.rows) == (piece.place.shelf, piece.place.row)
        )
        if last is not None and joins:
            groups[-1] = Group(last.begin, end, last.shelf, last.row, last.rows + 1, (*last.positions, piece.start))
        else:
            groups.append(Group(begin, end, piece.place.shelf, piece.place.row, 1, (piece.start,)))
        begin = end
    return groups


class Rotation:
    """Turns the two halves of each head by a token's angles."""

    def __init__(self, cosines: torch.Tensor, sines: torch.Tensor) -> None:
        """Both (1, tokens, size)."""
        self.sines = sines
        self._half = sines.shape[-1] // 2
        self._cosines = cosines[0, :, None]
        self._signed = torch.cat((-sines[..., : self._half], sines[..., self._half :]), dim=-1)[0, :, None]

    def turn(self, heads: torch.Tensor) -> torch.Tensor:
        """*heads* is (tokens, heads, size)."""
        return torch.addcmul(heads * self._cosines, torch.roll(heads, self._half, -1), self._signed)


class Attention:
    """The attention of one model, and the cache that its layers see.  `begin` each pass with its groups."""

    def __init__(self, memory: Memory, device: torch.device, dtype: torch.dtype) -> None:
        self._memory = memory
        self._device = device
        self._dtype = dtype
        self._groups: list[Group] = []
        self._targets: list[torch.Tensor] = []
        self._rotation: Rotation | None = None
        self._name = ""

    def install(self, network: PreTrainedModel) -> None:
        self._name = f"cactus_mesh_{next(_names)}"
        AttentionInterface.register(self._name, self._forward)
        network.set_attn_implementation(self._name)

    def uninstall(self) -> None:
        """What is registered is never freed."""
        AttentionInterface._global_mapping.pop(self._name, None)

    def begin(self, groups: list[Group]) -> None:
        self._groups = groups
        self._targets = [torch.tensor(group.positions, device=self._device).view(-1, 1, 1, 1) for group in groups]

    # --- what a layer calls ------------------------------------------------------------------------------------------

    def rotation(self, cosines: torch.Tensor, sines: torch.Tensor) -> Rotation:
        """Most layers of a pass have the same one."""
        if self._rotation is None or self._rotation.sines is not sines:
            self._rotation = Rotation(cosines, sines)
        return self._rotation

    def keep(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the pass's keys and values, each (tokens, heads, size), where they belong."""
        for group, positions in zip(self._groups, self._targets, strict=True):
            for new, kept in zip((keys, values), self._memory.layer(group.shelf, layer), strict=True):
                own = new[group.begin : group.end]
                if group.rows == 1:
                    kept[group.row, :, group.positions[0] : group.length] = own.transpose(0, 1)
                    continue
                rows = kept[group.row : group.row + group.rows]
                rows.scatter_(2, positions.expand(-1, rows.shape[1], 1, rows.shape[3]), own[:, :, None])

    def attend(
        self, layer: int, query: torch.Tensor, scale: float, window: int | None, softcap: float | None
    ) -> torch.Tensor:
        """*query* is (tokens, heads, size), the result too."""
        heads = query.shape[1]
        parts = []
        for group in self._groups:
            keys, values = (
                kept[group.row : group.row + group.rows, :, : group.length]
                for kept in self._memory.layer(group.shelf, layer)
            )
            mask = self._mask(group, window, heads // keys.shape[1])
            own = _by_key_head(query[group.begin : group.end], group, keys.shape[1])
            parts.append(_by_token(_attend(own, keys, values, mask, scale, softcap), group, heads))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    # --- the same, as layers of transformers call it -----------------------------------------------------------------

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keep(layer, keys[0].transpose(0, 1), values[0].transpose(0, 1))
        return keys, values

    def get_seq_length(self, *_: object) -> int:
        """Asked for by architectures that would count positions themselves; they are given instead."""
        return 0

    def _forward(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **others: object,
    ) -> tuple[torch.Tensor, None]:
        """*query* is (1, heads, tokens, size); the result (1, tokens, heads, size)."""
        if strange := [name for name in UNSUPPORTED if others.get(name) is not None]:
            raise ModelUnsupported(f"its attention needs {', '.join(strange)}, which this engine does not compute")
        layer: Any = module.layer_idx
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return self.attend(layer, query[0].transpose(0, 1), scale, sliding_window, softcap)[None], None

    def _mask(self, group: Group, window: int | None, share: int) -> torch.Tensor | None:
        """(rows, 1, share x tokens, length): 0 where a token may look, minus infinity where not.

        None where all may look everywhere.
        """
        if group.alike and (window is None or group.length <= window):
            return None
        if window not in group.masks:
            starts = torch.tensor(group.positions, device=self._device)[:, None]
            own = starts + torch.arange(group.tokens, device=self._device)
            own = own.repeat(1, share)[:, :, None]
            others = torch.arange(group.length, device=self._device)
            hidden = others > own
            if window is not None:
                hidden |= others <= own - window
            mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
            group.masks[window] = mask.masked_fill_(hidden, float("-inf"))[:, None]
        return group.masks[window]


def _by_key_head(own: torch.Tensor, group: Group, key_heads: int) -> torch.Tensor:
    """From the group's (rows x tokens, heads, size) to (rows, key heads, share x tokens, size)."""
    heads, size = own.shape[1:]
    if group.tokens == 1:
        return own.reshape(group.rows, key_heads, heads // key_heads, size)
    split = own.reshape(group.rows, group.tokens, key_heads, heads // key_heads, size)
    return split.permute(0, 2, 3, 1, 4).reshape(group.rows, key_heads, -1, size)


def _by_token(done: torch.Tensor, group: Group, heads: int) -> torch.Tensor:
    """Back to (rows x tokens, heads, size)."""
    if group.tokens == 1:
        return done.reshape(group.rows, heads, -1)
    return done.reshape(group.rows, heads, group.tokens, -1).transpose(1, 2).flatten(0, 1)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    if softcap is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    scores = torch.matmul(query, keys.transpose(2, 3)) * scale
    scores = torch.tanh(scores / softcap) * softcap
    scores = scores if mask is None else scores + mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, values)
