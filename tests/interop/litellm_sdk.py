"""What a program with LiteLLM's SDK does at the gateway; run by test_litellm.py in an environment that has it."""

import os

import litellm

URL, SLOW_URL, EMBED_URL, TEXT = (os.environ[f"CACTUS_{name}"] for name in ("URL", "SLOW_URL", "EMBED_URL", "TEXT"))
HELLO = [{"role": "user", "content": "What is a router?"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def ask(url=URL, **changes):
    asked = {"model": "openai/fake", "messages": HELLO, "api_base": url, "api_key": os.environ["CACTUS_KEY"]}
    return litellm.completion(**{**asked, "timeout": 20, "max_retries": 0, **changes})


def refused(kind, **changes):
    try:
        ask(**changes)
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was expected")


def a_chat_and_what_it_used():
    answer = ask()
    assert answer.choices[0].message.content == TEXT
    assert answer.usage.total_tokens == 20


def a_stream_and_its_usage():
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert chunks[-1].usage.completion_tokens == 16


def vectors():
    found = litellm.embedding(
        model="openai/embedder", input=["one", "two"], api_base=EMBED_URL, api_key=os.environ["CACTUS_KEY"]
    )
    assert [[round(number, 6) for number in each["embedding"]] for each in found.data] == [[0.6, -0.8], [1.0, 0.0]]


def how_likely_each_token_was():
    told = ask(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert "".join(each.token for each in told) == TEXT
    assert {len(each.top_logprobs) for each in told} == {2}


def errors_by_their_kind():
    assert "tools" in refused(litellm.BadRequestError, tools=TOOLS)
    assert "gpt-4o" in refused(litellm.NotFoundError, model="openai/gpt-4o")
    refused(litellm.AuthenticationError, api_key="cm-wrong")
    refused(litellm.Timeout, url=SLOW_URL, timeout=0.3)


def a_retry_that_is_not_paid_twice():
    once = {"extra_headers": {"Idempotency-Key": "order-1"}}
    assert ask(**once).choices[0].message.content == TEXT
    assert "task id" in refused(litellm.APIError, **once)


def leaving_a_stream():
    stream = ask(SLOW_URL, stream=True)
    next(stream)
    stream.completion_stream.close()


for test in (
    a_chat_and_what_it_used,
    a_stream_and_its_usage,
    vectors,
    how_likely_each_token_was,
    errors_by_their_kind,
    a_retry_that_is_not_paid_twice,
    leaving_a_stream,
):
    test()
    print(test.__name__, flush=True)
