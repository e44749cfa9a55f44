"""What the command line prints, and what it must not: control characters from peers, half of a JSON line, secrets."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, TextIO

import click

from cactus_mesh.spans import AboutFilter

if TYPE_CHECKING:
    from cactus_mesh.errors import MeshError

OCTAS_PER_APT: Final = 100_000_000
_STANDARD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def printable(text: str) -> str:
    """*text* without what could move the cursor, recolour or retitle a terminal; newlines and tabs stay."""
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def say(text: str = "") -> None:
    """A line for people, on standard error, so that standard output holds only what was asked for."""
    click.echo(text, err=True)


def stream(text: str) -> None:
    """A piece of an answer, at once."""
    click.echo(printable(text), nl=False)
    flush()


class Doing:
    """One line on a terminal's standard error about what takes a moment; gone when it is over, nothing elsewhere."""

    shown: ClassVar[bool] = False
    """There is one terminal, so there is one such line; a log line takes its place."""

    def __init__(self, text: str) -> None:
        self._can = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.now(text)

    def now(self, text: str) -> None:
        """Show *text* in place of what was shown; "" takes that away, and does nothing where nothing was."""
        if self._can and (text or Doing.shown):
            click.echo("\r\x1b[K" + (paint(printable(text), "bright_black") if text else ""), nl=False, err=True)
            Doing.shown = bool(text)

    def __enter__(self) -> Doing:
        return self

    def __exit__(self, *_: object) -> None:
        self.now("")


def print_json(value: object) -> None:
    """One object, one line."""
    click.echo(json.dumps(value, ensure_ascii=False))
    flush()


def flush() -> None:
    """What was printed, out, while somebody can still hear of it if nobody reads it."""
    if sys.stdout is not None:
        sys.stdout.flush()


def keep_streams() -> None:
    """A standard stream that is closed becomes the null device, before a file or a socket takes its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def discard_output() -> None:
    """Nobody reads what is still to come, nor what the interpreter would try to write at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(null, sys.stdout.fileno())
    os.close(null)


def complain(error: MeshError, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"code": error.code, "message": str(error)}})
    else:
        say(f"error: {printable(str(error))} [{error.code}]")


def octas(amount: int) -> str:
    """An amount for people: ``12,345 octas``, and in APT, exactly, once that is large enough to mean something."""
    if amount < OCTAS_PER_APT // 1_000:
        return f"{amount:,} octas"
    whole, rest = divmod(amount, OCTAS_PER_APT)
    apt = f"{whole:,}.{rest:08d}".rstrip("0").rstrip(".")
    return f"{amount:,} octas ({apt} APT)"


def paint(text: str, style: str) -> str:
    """*text* in a colour, or "bold"; plain where the user or the terminal wants no colours (https://no-color.org)."""
    if not style or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return click.style(text, bold=True) if style == "bold" else click.style(text, fg=style)


def short(peer: str) -> str:
    """A peer id's end, which is what differs: enough to recognise, and `ping` takes it."""
    return f"…{peer[-8:]}"


def ago(seconds: float) -> str:
    """A time span in its two largest units: ``2 h 5 min``."""
    whole = max(int(seconds), 0)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


class _LogLine(logging.Formatter):
    """``12:00:00 info cactus_mesh.router settled task=… paid_octas=…``; what was created, as a sentence."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == "cactus_mesh.created":
            path, settings = (getattr(record, name, "") for name in ("path", "settings"))
            return f"{path}: {record.getMessage()} {settings}"
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        head = f"{clock} {record.levelname.lower()} {record.name} {record.getMessage()}"
        fields = " ".join(f"{name}={printable(str(value))}" for name, value in _extras(record).items())
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{head} {fields}".rstrip() + trace


class _LogJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: _as_json(value) for name, value in _extras(record).items()},
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _as_json(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD_FIELDS}


class _LogHandler(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        if Doing.shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            Doing.shown = False
        super().emit(record)


def set_up_logging(verbosity: int, log_format: str) -> None:
    """Our own warnings by default, everything of ours with ``-v``, the libraries' too with ``-vv``."""
    handler = _LogHandler()
    handler.addFilter(AboutFilter())
    handler.setFormatter(_LogJson() if log_format == "json" else _LogLine())
    logging.basicConfig(handlers=[handler], level=logging.INFO if verbosity > 1 else logging.ERROR, force=True)
    logging.getLogger("cactus_mesh").setLevel(logging.INFO if verbosity else logging.WARNING)
    logging.getLogger("cactus_mesh.created").setLevel(logging.INFO)
    if verbosity < 2:
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # it logs what our adapter already handles and explains


def quieten_network() -> None:
    """For a command that itself says which addresses failed and why; with ``-v`` the log says it too."""
    network = logging.getLogger("cactus_mesh.net")
    if network.getEffectiveLevel() == logging.WARNING:
        network.setLevel(logging.ERROR)
