"""``ask``: one prompt, its answer as it is made, and what it cost."""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

from cactus_mesh.cli.base import command, json_option, load, main, network_options
from cactus_mesh.cli.completing import models as model_names
from cactus_mesh.errors import LedgerError
from cactus_mesh.terminal import Doing, octas, print_json, printable, say, stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.answer import Result
    from cactus_mesh.client import Client
    from cactus_mesh.config import Home
    from cactus_mesh.core.likelihoods import Alternative, TokenLogprob
    from cactus_mesh.core.pricing import Split

PAID_SECONDS: Final = 60.0
"""A router settles within seconds; one that has stopped does it at its next start."""


@main.command()
@click.argument("prompt")
@network_options
@click.option("--model", shell_complete=model_names, help="Which model. Default: client.model in the configuration.")
@click.option("--raw", is_flag=True, help="Continue the prompt instead of answering it as a chat message.")
@click.option("--max-tokens", type=int)
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option(
    "--logprobs",
    type=click.IntRange(0, 20),
    metavar="K",
    help="Show how likely each token was, and the K likeliest in its place.",
)
@click.option("--max-price", type=int, metavar="OCTAS", help="Refuse to pay more than this.")
@click.option("--deadline", type=float, metavar="SECONDS")
@click.option("--wait-paid", is_flag=True, help="Wait until the ledger has settled the task, and show what was paid.")
@json_option
@click.pass_obj
@command
async def ask(
    home: Home,
    prompt: str,
    bootstrap: tuple[str, ...],
    network: str | None,
    ledger: str | None,
    model: str | None,
    raw: bool,
    max_tokens: int | None,
    temperature: float,
    logprobs: int | None,
    max_price: int | None,
    deadline: float | None,
    wait_paid: bool,
    as_json: bool,
) -> None:
    """Ask the mesh; the answer streams to standard output.  PROMPT "-" reads standard input.

    \b
    Example: cactus-mesh ask "What is a router?" --bootstrap /ip4/127.0.0.1/tcp/4101/p2p/12D3KooW…
    """
    from cactus_mesh.clients import open_client

    config = load(home, bootstrap=list(bootstrap) or None, network=network, ledger=ledger)
    text = sys.stdin.read() if prompt == "-" else prompt
    wanted: dict[str, Any] = {
        "model": model or config.client.model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_logprobs": logprobs,
        "max_price": max_price,
        "deadline_seconds": deadline,
    }
    with Doing("joining the mesh") as doing:
        async with open_client(home=home, config=config) as client:
            doing.now(f"waiting for {wanted['model']}")
            messages = [{"role": "user", "content": text}]
            answer = client.generate(text, **wanted) if raw else client.chat(messages, **wanted)
            async for piece in answer:
                doing.now("")
                if not as_json:
                    stream(piece)
            result = answer.result
            split = await _paid(client, result) if wait_paid else None
    if as_json:
        told = {} if result.logprobs is None else {"logprobs": _shown(result.logprobs)}
        print_json(result.summary() | told | {"paid_octas": None if split is None else split.paid})
        return
    click.echo()
    for line in map(_line, result.logprobs or ()):
        click.echo(line)
    say(f"\n{len(result.token_ids)} tokens by {result.orchestrator}, receipt verified")
    if result.continued_at:
        say(f"another orchestrator was lost after {result.continued_at} tokens; this one went on and is paid for all")
    if result.delegate:
        say(f"worked on by {result.delegate}, to whom it was delegated")
    if wait_paid and split is None:
        say(f"not settled after {PAID_SECONDS:.0f} s; the router may do it later, see: cactus-mesh balance")
    say(f"paid {octas(split.paid)}" if split is not None else f"costs at most {octas(result.price)}")


def _shown(tokens: Sequence[TokenLogprob]) -> list[dict[str, object]]:
    """Of every token of the receipt, its end too, as OpenAI's API has it."""
    from cactus_mesh.core.likelihoods import shown

    return [shown(each) for each in tokens]


def _line(token: TokenLogprob) -> str:
    """One token, what its probability was, and what might have come instead."""
    others = ", ".join(f"{_quoted(each)} {_percent(each)}" for each in token.top if each.token_id != token.token_id)
    return f"{_percent(token):>8}  {_quoted(token)}" + (f"  instead of {others}" if others else "")


def _percent(token: Alternative) -> str:
    return f"{100 * math.exp(token.logprob):.2f} %"


def _quoted(token: Alternative) -> str:
    """On one line, and without what a terminal would obey."""
    return printable(token.token if token.data is None else json.dumps(token.token, ensure_ascii=False))


async def _paid(client: Client, result: Result) -> Split | None:
    """What was paid, or None when the ledger does not tell soon: the answer is there all the same."""
    import trio

    with trio.move_on_after(PAID_SECONDS), suppress(LedgerError):
        return await client.paid(result)
    return None
