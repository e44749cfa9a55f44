"""The model that the engine's benchmark runs, and transformers' own ways to run it, each as a process."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

WORDS = ("stone", "river", "cloud", "amber", "falcon", "meadow", "harbour", "lantern", "copper", "willow", "thunder")


def make(folder: str) -> None:
    """A random Llama of 16 million parameters, with the self-test model's tokenizer and without an end of text."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from cactus_mesh.engine.models import SELFTEST_FOLDER

    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048,
            hidden_size=384,
            intermediate_size=1152,
            num_hidden_layers=9,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=None,
        )
    )
    network.generation_config.eos_token_id = None
    network.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(SELFTEST_FOLDER)
    tokenizer.eos_token = None  # all answers are equally long
    tokenizer.save_pretrained(folder)


def generate(folder: str) -> None:
    """For every line on standard input, ``TOKENS PROMPT``: the seconds that `generate` takes for it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    print("ready", flush=True)
    for line in sys.stdin:
        tokens, prompt = line.rstrip("\n").split(" ", 1)
        began = time.perf_counter()
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            network.generate(**ids, do_sample=False, max_new_tokens=int(tokens), pad_token_id=1)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    {"make": make, "generate": generate}[sys.argv[1]](sys.argv[2])
