"""Layers that are replaced compute the same; those that compute something else are left alone."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.engine.small_models import SmallModels


@pytest.fixture(autouse=True)
def _where_it_works() -> None:
    from cactus_mesh.engine.runner import packing

    if not packing._works():
        pytest.skip("this build of torch has no packed layers")


@pytest.mark.parametrize("rows", [1, 2, 7, 33, 300])
def test_packed_layers_give_the_same_numbers_for_any_number_of_rows(rows: int) -> None:
    import torch
    from transformers.pytorch_utils import Conv1D

    from cactus_mesh.engine.runner import packing

    torch.manual_seed(1)
    for layer in (torch.nn.Linear(40, 24, bias=False), torch.nn.Linear(40, 24), Conv1D(24, 40)):
        holder = torch.nn.Sequential(layer)
        weight = packing.weight_of(layer)
        inputs = torch.randn(1, rows, 40)
        with torch.inference_mode():
            packed = packing.Packed(weight, packing.bias_of(layer))
            assert torch.allclose(packed(inputs), holder(inputs), atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2", "qwen3"])
def test_a_packed_network_gives_the_same_numbers(small_models: SmallModels, name: str) -> None:
    import torch

    from cactus_mesh.engine.runner.packing import Norm, Packed, pack

    network = small_models.network(name)
    plain, ids = copy.deepcopy(network), torch.arange(20)[None]
    pack(network)
    with torch.inference_mode():
        assert torch.allclose(network(ids).logits, plain(ids).logits, rtol=1e-3, atol=1e-3)
    replaced = {type(module) for module in network.modules()} & {Packed, Norm}
    assert replaced == ({Packed} if name == "gpt2" else {Packed, Norm})


def test_other_dtypes_are_left_alone(small_models: SmallModels) -> None:
    import torch

    from cactus_mesh.engine.runner.packing import Packed, pack

    network = small_models.network("llama").to(torch.bfloat16)
    pack(network)
    assert not any(isinstance(module, Packed) for module in network.modules())


def test_without_the_functions_nothing_changes(small_models: SmallModels, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from cactus_mesh.engine.runner import packing

    def missing(*_: object) -> None:
        raise AttributeError("no such operator")

    monkeypatch.setattr(packing.Packed, "__init__", missing)
    network = small_models.network("llama")
    packing.pack(network)
    assert any(type(module) is torch.nn.Linear for module in network.modules())
