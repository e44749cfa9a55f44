"""Layers computed in fewer calls compute the same; what computes something else is left as it is."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from tests.engine.small_models import SmallModels

GATED = ["gemma", "gemma2", "gemma3", "llama", "mistral", "qwen2", "qwen3"]


@pytest.fixture(autouse=True)
def _where_it_works() -> None:
    from cactus_mesh.engine.runner import packing

    if not packing._works():
        pytest.skip("this build of torch has no packed layers")


def shortened(network: torch.nn.Module) -> list[str]:
    from cactus_mesh.engine.runner.shortcuts import shorten

    shorten(network)
    return [type(module).__name__ for module in network.modules() if type(module).__name__.startswith("Short")]


@pytest.mark.parametrize("name", GATED)
def test_every_layer_of_the_usual_families_is_shortened(small_models: SmallModels, name: str) -> None:
    assert shortened(small_models.network(name)) == ["ShortAttention", "ShortForward"] * 2


def test_other_families_and_dtypes_are_left_alone(small_models: SmallModels) -> None:
    import torch

    assert shortened(small_models.network("gpt2")) == []
    assert shortened(small_models.network("llama").to(torch.bfloat16)) == []


@pytest.mark.parametrize("place", ["query", "output", "far"])
def test_an_attention_layer_that_adds_a_step_of_its_own_keeps_it(small_models: SmallModels, place: str) -> None:
    network = small_models.network("llama")
    module = network.model.layers[1].self_attn
    forward = type(module).forward

    def stranger(self: object, hidden_states: torch.Tensor, **options: object) -> tuple[torch.Tensor, None]:
        far = 1 + 0.01 * (options["position_ids"] > 400)[..., None]  # as some scale queries in long texts alone
        before = {"query": 1.5, "far": far}.get(place, 1) * hidden_states
        out, weights = forward(self, hidden_states=before, **options)
        return (2 * out if place == "output" else out), weights

    module.forward = MethodType(stranger, module)
    assert shortened(network) == ["ShortAttention", "ShortForward", "ShortForward"]
    assert network.model.layers[1].self_attn is module


def test_a_feed_forward_layer_that_does_more_keeps_it(small_models: SmallModels) -> None:
    network = small_models.network("llama")
    module = network.model.layers[0].mlp
    forward = type(module).forward
    module.forward = lambda rows: forward(module, rows.clamp(max=0.5))
    assert shortened(network) == ["ShortAttention", "ShortAttention", "ShortForward"]


def test_watching_leaves_the_network_as_it_was(small_models: SmallModels) -> None:
    import torch

    from cactus_mesh.engine.runner.shortcuts import _watch

    network, ids = small_models.network("llama"), torch.arange(9)[None]
    with torch.inference_mode():
        before = network(ids).logits
        assert len(_watch(network)) == 2
        assert torch.equal(network(ids).logits, before)


def test_angles_that_depend_on_the_longest_text_are_refused(small_models: SmallModels) -> None:
    from cactus_mesh.engine.runner.probe import prepare
    from cactus_mesh.errors import ModelUnsupported

    network = small_models.network("llama")
    network.model.rotary_emb.rope_type = "longrope"
    with pytest.raises(ModelUnsupported, match="angles that depend on the text's length"):
        prepare("long", network)
