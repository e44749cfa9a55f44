"""The official OpenAI client (pip install openai) at `cactus-mesh gateway`; OPENAI_BASE_URL says where that is."""

from __future__ import annotations

import os
import sys

import openai

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"

client = openai.OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:4180/v1"),
    api_key=os.environ.get("CACTUS_API_KEY", "none"),  # on this machine alone no key is needed
)
stream = client.chat.completions.create(
    model=MODEL, messages=[{"role": "user", "content": "What is a router?"}], stream=True
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
