"""Attention and feed-forward layers in fewer calls, which beside memory are what a pass over few tokens costs.

A layer's own forward is watched first, at positions all over the context: only where the shortcut gives to attention,
and makes of its answer, the same numbers, it takes the layer's place.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AttentionInterface

from cactus_mesh.engine.runner.attention import UNSUPPORTED, Attention, Rotation
from cactus_mesh.engine.runner.packing import Packed, bias_of, can_pack, quick_norm, weight_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

_WATCHING: Final = "cactus_mesh_watching"
_POSITIONS: Final = 8
_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
_TOLERANCE: Final = 1e-5
"""Relative to the largest number: summing in another order differs by about 1e-6, another formula by far more."""


@dataclass
class _Seen:
    """What a layer gave to attention, what it was answered, and the call that it was part of."""

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    options: dict[str, Any]
    answer: torch.Tensor
    given: dict[str, Any] = field(default_factory=dict)
    output: torch.Tensor | None = None


class ShortAttention(torch.nn.Module):
    """Query, keys and values are read with one matrix, and query and keys turned together."""

    def __init__(self, module: Any, seen: _Seen) -> None:
        super().__init__()
        self._read = _joined([module.q_proj, module.k_proj, module.v_proj])
        self._write = _joined([module.o_proj])
        norms = (module.q_norm, module.k_norm) if hasattr(module, "q_norm") else None
        self._norms = norms and tuple(quick_norm(norm) or norm for norm in norms)
        self._layer: int = module.layer_idx
        self._heads, self._size = seen.query.shape[1], seen.query.shape[3]
        self._turned = self._heads + seen.keys.shape[1]
        scaling = seen.options.get("scaling")
        self._scale: float = self._size**-0.5 if scaling is None else scaling
        self._window: int | None = seen.options.get("sliding_window")
        self._softcap: float | None = seen.options.get("softcap")

    def __call__(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        past_key_values: Attention,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        query, keys, values = self.read(hidden_states, past_key_values.rotation(*position_embeddings))
        past_key_values.keep(self._layer, keys, values)
        attended = past_key_values.attend(self._layer, query, self._scale, self._window, self._softcap)
        return self.write(attended), None

    def read(self, hidden: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, keys and values of *hidden* (1, tokens, width), each (tokens, heads, size)."""
        heads = self._read(hidden).view(hidden.shape[1], -1, self._size)
        turning, values = heads[:, : self._turned], heads[:, self._turned :]
        if self._norms is not None:
            query, keys = turning[:, : self._heads], turning[:, self._heads :]
            turning = torch.cat((self._norms[0](query), self._norms[1](keys)), dim=1)
        turned = rotation.turn(turning)
        return turned[:, : self._heads], turned[:, self._heads :], values

    def write(self, attended: torch.Tensor) -> torch.Tensor:
        """From (tokens, heads, size) to (1, tokens, width)."""
        return self._write(attended.reshape(1, attended.shape[0], -1))


class ShortForward(torch.nn.Module):
    """A gated feed-forward layer that reads gate and values with one matrix."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self._read = _joined([module.gate_proj, module.up_proj])
        self._write = _joined([module.down_proj])
        self._activate = module.act_fn.forward

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        gate, values = self._read(rows).chunk(2, dim=-1)
        return self._write(self._activate(gate).mul_(values))


def shorten(network: PreTrainedModel) -> None:
    """Replace those layers of *network*, still unpacked and with its own attention, that can be."""
    if not can_pack(network):
        return
    with torch.inference_mode():
        seen = _watch(network)
        for name in [name for name, module in network.named_modules() if name in seen or _is_gated(module)]:
            module = network.get_submodule(name)
            short = _short_attention(module, seen.pop(name)) if name in seen else _short_forward(module)
            if short is not None:
                network.set_submodule(name, short)


def _short_attention(module: torch.nn.Module, seen: _Seen) -> ShortAttention | None:
    if seen.output is None or any(seen.options.get(name) is not None for name in UNSUPPORTED):
        return None
    try:
        short = ShortAttention(module, seen)
        read = short.read(seen.given["hidden_states"], Rotation(*seen.given["position_embeddings"]))
        written = short.write(seen.answer[0])
    except (AttributeError, KeyError, RuntimeError, TypeError):  # it has other parts, or is called otherwise
        return None
    expected = (each[0].transpose(0, 1) for each in (seen.query, seen.keys, seen.values))
    return short if all(map(_same, read, expected)) and _same(written, seen.output) else None


def _short_forward(module: Any) -> ShortForward | None:
    short = ShortForward(module)
    rows = torch.randn(1, 4, module.gate_proj.weight.shape[1], generator=torch.Generator().manual_seed(0))
    return short if _same(short(rows), module(rows)) else None


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _TOLERANCE * other.abs().max())


def _is_gated(module: torch.nn.Module) -> bool:
    return _has_linear(module, ("gate_proj", "up_proj", "down_proj")) and isinstance(
        getattr(module, "act_fn", None), torch.nn.Module
    )


def _has_linear(module: torch.nn.Module, names: Sequence[str]) -> bool:
    return all(type(getattr(module, name, None)) is torch.nn.Linear for name in names)


def _joined(layers: Sequence[torch.nn.Module]) -> Packed:
    """One layer that gives what each of *layers* gives, one after another."""
    weights, biases = [], []
    for layer in layers:
        weight, bias = weight_of(layer), bias_of(layer)
        assert weight is not None
        weights.append(weight)
        biases.append(bias if bias is not None else weight.new_zeros(len(weight)))
    biased = any(bias_of(layer) is not None for layer in layers)
    return Packed(torch.cat(weights), torch.cat(biases) if biased else None)


# --- watching --------------------------------------------------------------------------------------------------------


def _watch(network: PreTrainedModel) -> dict[str, _Seen]:
    """What each attention layer did, by name, in one pass over tokens that lie all over the context."""
    seen: dict[int, _Seen] = {}
    generator = torch.Generator().manual_seed(0)

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        answer = torch.randn(1, query.shape[2], query.shape[1], value.shape[3], generator=generator)
        seen[id(module)] = _Seen(query, key, value, options, answer)
        return answer, None

    def done(module: torch.nn.Module, _: tuple[object, ...], given: dict[str, Any], output: Any) -> None:
        if id(module) in seen:
            seen[id(module)].given, seen[id(module)].output = given, output[0]

    layers = {name: module for name, module in network.named_modules() if _has_linear(module, _PROJECTIONS)}
    hooks = [module.register_forward_hook(done, with_kwargs=True) for module in layers.values()]
    try:
        with _attention(network, attend):
            last = int(getattr(network.config.get_text_config(), "max_position_embeddings", _POSITIONS)) - 1
            positions = torch.linspace(0, last, _POSITIONS).long()[None]
            vocabulary: Any = network.get_input_embeddings().weight
            ids = torch.arange(_POSITIONS)[None] % len(vocabulary)
            network(input_ids=ids, position_ids=positions, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: seen[id(module)] for name, module in layers.items() if id(module) in seen}


@contextmanager
def _attention(network: PreTrainedModel, attend: Any) -> Iterator[None]:
    own = network.config._attn_implementation
    AttentionInterface.register(_WATCHING, attend)
    network.set_attn_implementation(_WATCHING)
    try:
        yield
    finally:
        network.set_attn_implementation(own)
