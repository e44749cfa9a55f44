"""``chat``: a conversation with a model of the mesh, at a terminal or through a pipe."""

from __future__ import annotations

import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cactus_mesh.cli.base import command, json_option, load, main, network_options
from cactus_mesh.cli.completing import models as model_names
from cactus_mesh.errors import Cancelled, MeshError, OutputExists, UsageError
from cactus_mesh.terminal import Doing, complain, octas, paint, print_json, say, short, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio

    from cactus_mesh.answer import Answer, Result
    from cactus_mesh.cli.lines import Lines
    from cactus_mesh.cli.talk import Talk
    from cactus_mesh.client import Client
    from cactus_mesh.config import Home

DIM: Final = "bright_black"


@main.command()
@network_options
@click.option("--model", shell_complete=model_names, help="Which model. Default: client.model in the configuration.")
@click.option("--system", default="", metavar="TEXT", help="What the model is told about itself.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of one answer.")
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option("--max-price", type=click.IntRange(min=0), metavar="OCTAS", help="Refuse to pay more for an answer.")
@click.option("--budget", type=click.IntRange(min=1), metavar="OCTAS", help="Refuse to pay more for all of them.")
@click.option("--no-history", is_flag=True, help="Neither read nor keep lines of earlier chats.")
@json_option
@click.pass_obj
@command
async def chat(
    home: Home,
    bootstrap: tuple[str, ...],
    network: str | None,
    ledger: str | None,
    model: str | None,
    system: str,
    max_tokens: int | None,
    temperature: float,
    max_price: int | None,
    budget: int | None,
    no_history: bool,
    as_json: bool,
) -> None:
    """Talk with a model of the mesh: it remembers the conversation, and you see what each answer costs.

    /help lists what can be said to the program itself.  Ctrl-C stops an answer, Ctrl-D leaves.  Lines that you wrote
    are kept in the home's file chat-history (0600) for the next time.  From a pipe each line is a question.

    \b
    Example: cactus-mesh chat --system "Answer in one sentence." --budget 200000
    """
    from cactus_mesh.cli.lines import PipedLines, TypedLines
    from cactus_mesh.cli.talk import Talk
    from cactus_mesh.clients import open_client

    config = load(home, bootstrap=list(bootstrap) or None, network=network, ledger=ledger)
    typed = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    price = config.client.max_price if max_price is None else max_price
    talk = Talk(model or config.client.model, price, budget or 0, system)
    async with AsyncExitStack() as stack:
        with Doing("joining the mesh"):
            client = await stack.enter_async_context(open_client(home=home, config=config))
        chatting = _Chat(client, talk, config.client.cap_per_day, max_tokens, temperature, as_json=as_json)
        if typed:
            say(f"{talk.model} answers, for at most {octas(price)} each; /help for more, Ctrl-D to leave")
            await chatting.with_somebody(TypedLines(None if no_history else home.chat_history_file))
        else:
            await chatting.through_a_pipe(PipedLines())


class _Chat:
    def __init__(
        self,
        client: Client,
        talk: Talk,
        cap_per_day: int,
        max_tokens: int | None,
        temperature: float,
        *,
        as_json: bool,
    ) -> None:
        self._client = client
        self._talk = talk
        self._cap_per_day = cap_per_day
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._as_json = as_json

    async def with_somebody(self, lines: Lines) -> None:
        """Until they leave.  What fails is said, and the conversation goes on."""
        while True:
            try:
                line = await lines.next()
            except KeyboardInterrupt:
                continue  # of the line, not of the program
            if line is None or line.strip() == "/quit":
                return
            try:
                if line.startswith("/"):
                    await self._obey(line.strip())
                elif line.strip():
                    self._tell(await self._answer(line))
            except MeshError as error:
                click.echo()
                complain(error, as_json=False)

    async def through_a_pipe(self, lines: Lines) -> None:
        """Each line is a question; the first that fails ends it, with its exit status."""
        while (line := await lines.next()) is not None:
            if not line.strip():
                continue
            result = await self._answer(line)
            if self._as_json:
                print_json(result.summary())
            else:
                click.echo()

    async def _answer(self, question: str) -> Result:
        answer = self._client.chat(
            self._talk.messages(question),
            model=self._talk.model,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            max_price=self._talk.price,
        )
        result = await _read(answer, shown=not self._as_json)
        self._talk.keep(question, result)
        return result

    def _tell(self, result: Result) -> None:
        stopped = "stopped; " if result.finish == "cancelled" else ""
        by = f"{len(result.token_ids)} tokens by {short(result.orchestrator)}"
        click.echo("\n" + paint(f"{stopped}at most {octas(result.price)} for {by}, receipt verified", DIM))

    async def _obey(self, line: str) -> None:
        from cactus_mesh.cli.talk import HELP, listed, split

        name, rest = split(line)
        match name:
            case "/help":
                click.echo(HELP)
            case "/model":
                click.echo(self._talk.choose(rest))
            case "/models":
                click.echo(listed(await self._client.models(), self._talk.model))
            case "/system":
                click.echo(self._talk.instruct(rest))
            case "/reset":
                self._talk.reset()
                click.echo("forgotten")
            case "/price":
                click.echo(self._talk.cost(self._client.spent_today(), self._cap_per_day))
            case "/save":
                click.echo(_save(self._talk, rest))


def _save(talk: Talk, name: str) -> str:
    from cactus_mesh.files import write_private

    if not name:
        raise UsageError("say where: /save FILE")
    path = Path(name).expanduser()
    if path.exists():
        raise OutputExists(f"{path} is there already; name another file")
    try:
        write_private(path, talk.written().encode())
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}); name another file") from None
    return f"written to {path}"


# --- one answer --------------------------------------------------------------------------------------------------


async def _read(answer: Answer, *, shown: bool) -> Result:
    """Show *answer* as it comes.  Ctrl-C ends it and waits for its receipt; a second one does not wait."""
    import trio

    reading, waiting = trio.CancelScope(), trio.CancelScope()
    async with _on_interrupt(reading, waiting):
        with reading:
            async for piece in answer:
                if shown:
                    stream(piece)
        with waiting:
            return await answer.cancel()
    raise Cancelled("stopped without waiting for its receipt; what it has cost, see: cactus-mesh tasks")


@asynccontextmanager
async def _on_interrupt(first: trio.CancelScope, second: trio.CancelScope) -> AsyncIterator[None]:
    """Ctrl-C cancels the scopes, one after the other, instead of ending the program."""
    import trio

    from cactus_mesh.concurrency import open_service_nursery

    async def watch(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                (second if first.cancel_called else first).cancel()

    async with open_service_nursery() as nursery:
        await nursery.start(watch)
        yield
