"""How `top` looks: a node's live picture as one line, or as a screen of tables and sparklines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.terminal import ago, printable, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.table import Table

BARS: Final = "▁▂▃▄▅▆▇█"
SPARK_POINTS: Final = 60
PEERS_SHOWN: Final = 8
TASKS_SHOWN: Final = 10
_MODEL: Final = 22

Picture = dict[str, Any]


def sparkline(values: Sequence[float | None], points: int = SPARK_POINTS) -> str:
    """The last *points*, from nothing to the largest of them; a gap where nothing is known."""
    shown = list(values)[-points:]
    most = max((each for each in shown if each is not None), default=0.0)
    if not most:
        return "".join(" " if each is None else BARS[0] for each in shown)
    top = len(BARS) - 1
    return "".join(" " if each is None else BARS[round(max(each, 0.0) / most * top)] for each in shown)


def series(picture: Picture, name: str) -> list[float | None]:
    values: list[float | None] = picture.get("series", {}).get("fine", {}).get("values", {}).get(name, [])
    return values


def latest(values: Sequence[float | None]) -> float | None:
    return next((each for each in reversed(values) if each is not None), None)


def tokens(picture: Picture) -> list[float | None]:
    """Per second, over all parts of this node."""
    parts = [series(picture, f"tokens_{part}") for part in ("client", "router", "orchestrator")]
    return [
        None if all(each is None for each in column) else sum(each or 0.0 for each in column)
        for column in zip(*(part for part in parts if part), strict=False)
    ]


def one_line(picture: Picture) -> str:
    """For logs and pipes: the time, and what matters, each by its name."""
    clock = time.strftime("%H:%M:%S", time.localtime(picture["now"]))
    first = latest(series(picture, "first_token_ms"))
    done, failed, octas = _sums(picture)
    fields = {
        "peers": picture["peers_total"],
        "running": picture["running_total"],
        "tokens_per_second": round(latest(tokens(picture)) or 0.0, 1),
        "first_token_ms": "-" if first is None else round(first),
        "done": done,
        "failed": failed,
        "octas": octas,
        "auditing": picture["self"].get("router", {}).get("auditing", 0) if picture["self"].get("router") else 0,
    }
    return f"{clock} " + " ".join(f"{name}={value}" for name, value in fields.items())


def _sums(picture: Picture) -> tuple[int, int, int]:
    totals = picture.get("totals", {}).values()
    done, failed, octas = (sum(each.get(name) or 0 for each in totals) for name in ("done", "failed", "octas"))
    return done, failed, octas


# --- a screen ----------------------------------------------------------------------------------------------------


def screen(picture: Picture) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    own, now = picture["self"], picture["now"]
    head = Text.assemble(
        (f"{short(own['peer_id'])}", "bold"),
        f"  {', '.join(own['roles'])} on {printable(own['network'])}, for {ago(now - own['started_at'])}",
    )
    parts: list[RenderableType] = [head, Text(), _numbers(picture), Text(), _tasks(picture), Text(), _peers(picture)]
    return Group(*parts, Text("\nq quits", style="dim"))


def _table(*columns: tuple[str, str], title: str = "") -> Table:
    from rich.table import Table

    table = Table(
        box=None, pad_edge=False, title=title or None, title_justify="left", show_header=any(c[0] for c in columns)
    )
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True, header_style="dim")
    return table


def _numbers(picture: Picture) -> Table:
    done, failed, octas = _sums(picture)
    first, speed, rtt = series(picture, "first_token_ms"), tokens(picture), series(picture, "rtt_ms")
    money, router = picture.get("money") or {}, picture["self"].get("router") or {}
    audits = ", ".join(f"{count} {name.removeprefix('audits_')}" for name, count in router.items() if "audit" in name)
    table = _table(("", "left"), ("", "right"), ("", "left"))
    table.add_row("tokens/s", _number(latest(speed)), sparkline(speed))
    table.add_row("first token", _number(latest(first), " ms"), sparkline(first))
    table.add_row("round trip", _number(latest(rtt), " ms"), sparkline(rtt))
    table.add_row("tasks", f"{picture['running_total']} now", f"{done:,} done, {failed:,} failed")
    table.add_row("asked, octas", f"{octas:,}", "by receipts since the start; paid: cactus-mesh earnings")
    table.add_row("coins, octas", _octas(money.get("coins_octas")), _money(money))
    if audits:
        table.add_row("audits", "", audits)
    return table


def _money(money: Picture) -> str:
    if money.get("error"):
        return f"the ledger is not heard: {printable(str(money['error']))}"
    held = (("on deposit", "deposit_octas"), ("at stake", "stake_octas"), ("spent today", "spent_today_octas"))
    return ", ".join(f"{money[name]:,} {words}" for words, name in held if money.get(name))


def _octas(amount: int | None) -> str:
    return "-" if amount is None else f"{amount:,}"


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:,.1f}{unit}"


def _tasks(picture: Picture) -> Table:
    table = _table(
        ("task", "left"), ("role", "left"), ("state", "left"), ("model", "left"), ("tokens", "right"),
        ("per s", "right"), ("seconds", "right"), title=f"tasks: {picture['running_total']} under way",
    )  # fmt: skip
    for task in [*picture["running"], *picture["done"]][:TASKS_SHOWN]:
        state = printable(str(task["state"]))
        colour = {"ok": "green", "streaming": "cyan", "working": "cyan", "waiting": "yellow"}.get(state, "red")
        table.add_row(
            printable(str(task["id"]))[:12],
            task["role"],
            f"[{colour}]{state}[/]" if state.replace(".", "").replace("_", "").isalnum() else "?",
            _plain(task["model"], _MODEL),
            _count(task["tokens"]),
            _number(task["tokens_per_second"]),
            _number(task["seconds"]),
        )
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _plain(text: str | None, most: int) -> str:
    """A name of a peer's choosing: neither control characters nor markup of ours."""
    from rich.markup import escape

    clean = printable(text or "?").replace("\n", " ")
    return escape(clean if len(clean) <= most else clean[: most - 1] + "…")


def _peers(picture: Picture) -> Table:
    table = _table(
        ("peer", "left"), ("roles", "left"), ("path", "left"), ("round trip", "right"), ("for", "right"),
        title=f"peers: {picture['peers_total']} connected",
    )  # fmt: skip
    for peer in picture["peers"][:PEERS_SHOWN]:
        path = f"[yellow]relayed[/] via {short(peer['relay'] or '?')}" if peer["relayed"] else "[green]direct[/]"
        since = ago(picture["now"] - peer["since"])
        table.add_row(short(peer["peer_id"]), ", ".join(peer["roles"]), path, _number(peer["rtt_ms"], " ms"), since)
    return table
