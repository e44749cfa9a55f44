"""Small random models of several architectures, made on the fly, with what transformers itself makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from cactus_mesh.engine.models import SELFTEST_FOLDER

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = 2_048
WINDOW_TOKENS = 24
"""Shorter than the prompts of the tests."""
SPREAD = 0.3
"""Standard deviation of the weights: large enough that no two logits are nearly equal."""


@dataclass(frozen=True)
class SmallModels:
    folders: dict[str, Path]

    def network(self, name: str, attention: str | None = None) -> torch.nn.Module:
        folder = self.folders[name]
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()

    def tokenizer(self, name: str) -> object:
        return AutoTokenizer.from_pretrained(self.folders[name])

    def greedy(self, name: str, prompt: str, max_tokens: int, attention: str | None = None) -> list[int]:
        """The ids that `model.generate` makes, alone and greedy."""
        ids = torch.tensor([self.tokenizer(name)(prompt)["input_ids"]])
        with torch.inference_mode():
            out = self.network(name, attention).generate(
                ids, do_sample=False, max_new_tokens=max_tokens, pad_token_id=1
            )
        return out[0, ids.shape[1] :].tolist()

    def logits(self, name: str, ids: list[int]) -> torch.Tensor:
        """One prefill over *ids*: a row for each."""
        with torch.inference_mode():
            return self.network(name)(torch.tensor([ids])).logits[0].double()


def make_small_models(folder: Path) -> SmallModels:
    torch.manual_seed(7)
    common = {"vocab_size": VOCABULARY, "initializer_range": SPREAD, "bos_token_id": 0, "eos_token_id": 1}
    llama = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    window = {"sliding_window": WINDOW_TOKENS}
    layers = {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 16}
    networks = {
        "llama": LlamaForCausalLM(LlamaConfig(**common, **llama, **heads)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**common, **llama, **heads)),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**common, **llama, **heads, head_dim=16)),
        "mistral": MistralForCausalLM(MistralConfig(**common, **llama, **heads, **window)),
        "gemma": GemmaForCausalLM(GemmaConfig(**common, **llama, **heads, head_dim=16)),
        "gemma2": Gemma2ForCausalLM(Gemma2Config(**common, **llama, **heads, **window, **layers)),
        "gemma3": Gemma3ForCausalLM(Gemma3TextConfig(**common, **llama, **heads, **window, **layers)),
        "gpt2": GPT2LMHeadModel(GPT2Config(**common, n_embd=48, n_layer=2, n_head=4, n_positions=512)),
    }
    tokenizer = AutoTokenizer.from_pretrained(SELFTEST_FOLDER)
    tokenizer.chat_template = None
    for name, network in networks.items():
        network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return SmallModels({name: folder / name for name in networks})
