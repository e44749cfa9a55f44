"""Every family of decoders that transformers has is either computed as transformers does, or refused by name.

Small random models, their prompts read in pieces beside each other and longer than any window, against `generate`.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import pytest

from cactus_mesh.core.pricing import complexity
from cactus_mesh.engine import EngineSettings
from cactus_mesh.engine.frames import Finished, Open, Start, Token
from cactus_mesh.engine.models import SELFTEST_FOLDER
from cactus_mesh.errors import ModelUnsupported
from cactus_mesh.messages import Generate, Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from cactus_mesh.engine.frames import Event
    from cactus_mesh.engine.runner.residents import Residents

MAX_TOKENS = 12
TEXT = "The old heron went to the harbour, and nobody knew the way. "
PROMPTS = ["One day the fox", TEXT * 4, TEXT * 9, "A river keeps"]
WINDOW_TOKENS = 24
COMMON = {
    "vocab_size": 2_048,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
OPT = {"ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": True}
EYE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": WINDOW_TOKENS}


def rope(kind: str, **more: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 1e4, "rope_type": kind, **more}}


SERVED: dict[str, tuple[str, dict[str, Any]]] = {
    "tied embeddings, one key head, odd vocabulary": (
        "llama",
        {"tie_word_embeddings": True, "num_key_value_heads": 1, "vocab_size": 2_051},
    ),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3's angles": (
        "llama",
        rope("llama3", factor=8, low_freq_factor=1, high_freq_factor=4, original_max_position_embeddings=64),
    ),
    "yarn": ("llama", rope("yarn", factor=8, original_max_position_embeddings=64)),
    "windows in the upper layers": (
        "qwen2",
        {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": WINDOW_TOKENS},
    ),
    "part of a head turned": ("stablelm", {"qk_layernorm": True, **rope("default", partial_rotary_factor=0.25)}),
    "parallel layers": ("gpt_neox", rope("default", partial_rotary_factor=0.5)),
    "layers without positions": ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}),
    "multipliers": (
        "granite",
        {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.3, "attention_multiplier": 0.1},
    ),
    "angles interleaved": ("cohere2", ALTERNATING | {"logit_scale": 0.3}),
    "norms after layers": ("olmo3", ALTERNATING),
    "soft caps": (
        "gemma2",
        ALTERNATING | {"head_dim": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "a model that also sees": (
        "gemma3",
        {
            "text_config": COMMON | ALTERNATING | {"head_dim": 16},
            "vision_config": EYE,
            "mm_tokens_per_image": 4,
            "image_token_index": 2_000,
        },
    ),
    "phi": ("phi", {}),
    "phi 3": ("phi3", {"sliding_window": WINDOW_TOKENS}),
    "starcoder 2": ("starcoder2", {"sliding_window": WINDOW_TOKENS}),
    "opt": ("opt", OPT),
    "one key head for all": ("gpt_bigcode", GPT2),
    "gpt2 with a padding token": ("gpt2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "alibi": ("bloom", {"n_layer": 2, "n_head": 4}, "computes attention in a way of its own"),
    "attention of its own": ("falcon", {"alibi": True}, "computes attention in a way of its own"),
    "attention of its own, older": ("gptj", GPT2 | {"rotary_dim": 8}, "computes attention in a way of its own"),
    "a window in the cache alone": (
        "moshi",
        {"sliding_window": WINDOW_TOKENS, "head_dim": 16, "ffn_dim": 96},
        "looks at other tokens",
    ),
    "both ways": (
        "gemma3_text",
        {"use_bidirectional_attention": True, "head_dim": 16, "sliding_window": WINDOW_TOKENS},
        "looks at other tokens",
    ),
    "values read twice": ("diffllama", {"head_dim": 16}, "reads other keys and values than it keeps"),
    "sinks": ("granite_swa", {}, "s_aux"),
    "experts": ("mixtral", {"num_local_experts": 4}, "mixture of experts"),
    "experts by another name": (
        "ernie4_5_moe",
        {"moe_num_experts": 4, "moe_intermediate_size": 32},
        r"mixture of experts \(",
    ),
    "layers that are no attention": ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}, "compute: conv"),
    "a state instead of attention": ("mamba", {"state_size": 8}, "does not compute: linear_attention"),
    "angles that hang on the length": ("llama", rope("dynamic", factor=4.0), "angles that depend on"),
}


def make(folder: Path, kind: str, settings: dict[str, Any]) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(7)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(COMMON | settings)))
    with torch.no_grad():
        for parameter in network.parameters():  # norms of ones and biases of nothing would hide mistakes
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    network.save_pretrained(folder / kind)
    AutoTokenizer.from_pretrained(SELFTEST_FOLDER).save_pretrained(folder / kind)
    return folder / kind


def opened(folder: Path) -> tuple[Residents, queue.SimpleQueue[Any]]:
    from cactus_mesh.engine.runner.residents import open_residents

    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    settings = EngineSettings(slots=8, chunk_tokens=16, threads=2, cache_mib=64)
    return open_residents(Open([str(folder)], settings), inbox.put, lambda _: None), inbox


def made_by_the_engine(residents: Residents, inbox: queue.SimpleQueue[Any]) -> list[list[int]]:
    """All prompts together."""
    from cactus_mesh.engine.runner.loop import Loop

    events: list[Event] = []
    loop = Loop(residents, 8, inbox, events.extend)
    for id_, prompt in enumerate(PROMPTS):
        work, sampling = Generate(prompt), Sampling(max_tokens=MAX_TOKENS)
        inbox.put(Start(id_, residents.facts[0].digest, work, sampling, bytes(32)))
    while sum(isinstance(event, Finished) for event in events) < len(PROMPTS):
        loop.turn()
        assert not [event for event in events if type(event).__name__ == "Failed"]
    tokens = [event for event in events if isinstance(event, Token)]
    return [[event.token_id for event in tokens if event.id == id_] for id_ in range(len(PROMPTS))]


def made_by_transformers(folder: Path) -> list[list[int]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = []
    with torch.inference_mode():
        for prompt in PROMPTS:
            ids = torch.tensor([tokenizer(prompt)["input_ids"]])
            out = network.generate(ids, do_sample=False, max_new_tokens=MAX_TOKENS, pad_token_id=1)
            made.append(out[0, ids.shape[1] :].tolist())
    return made


@pytest.mark.parametrize("name", SERVED)
def test_a_family_is_computed_as_transformers_computes_it(name: str, tmp_path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    folder = make(tmp_path, *SERVED[name])
    residents, inbox = opened(folder)
    assert made_by_the_engine(residents, inbox) == made_by_transformers(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.arange(300)[None])
    assert complexity(residents.facts[0].shape, 290, 10) == pytest.approx(counter.get_total_flops() / 1e6, rel=0.01)


def test_what_another_model_sets_for_the_process_while_it_is_loaded_changes_no_token(tmp_path: Path) -> None:
    """Transformers changes torch's default dtype then, for all threads."""
    import torch

    folder = make(tmp_path, *SERVED["soft caps"])
    residents, inbox = opened(folder)
    torch.set_default_dtype(torch.bfloat16)
    try:
        made = made_by_the_engine(residents, inbox)
    finally:
        torch.set_default_dtype(torch.float32)
    assert made == made_by_transformers(folder)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_computed_wrongly_is_refused_by_name(name: str, tmp_path: Path) -> None:
    kind, settings, why = REFUSED[name]
    folder = make(tmp_path, kind, settings)
    with pytest.raises(ModelUnsupported, match=f"{kind}.*{why}"):
        opened(folder)


def test_half_precision_is_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding may differ there, but not what is read: here positions are counted over all texts together."""
    from transformers import LlamaForCausalLM

    from cactus_mesh.engine.runner.loading import load_models

    folder = make(tmp_path, "llama", {})
    (model,) = load_models([str(folder)], EngineSettings(dtype="bfloat16"))
    assert model.facts.dtype == "bfloat16"
    honest = LlamaForCausalLM.forward

    def own_count(self: object, **inputs: object) -> object:
        return honest(self, **inputs | {"position_ids": None})

    monkeypatch.setattr(LlamaForCausalLM, "forward", own_count)
    with pytest.raises(ModelUnsupported, match="reads texts in pieces"):
        load_models([str(folder)], EngineSettings(dtype="bfloat16"))
