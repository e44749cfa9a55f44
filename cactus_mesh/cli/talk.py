"""A conversation of `chat`: what was said, what it has cost, what its commands do.  Knows no terminal, no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cactus_mesh.errors import PriceOverBudget, UsageError
from cactus_mesh.terminal import octas, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.answer import Result
    from cactus_mesh.messages import Listed

MOST_MESSAGES: Final = 200
"""That go with one question; a request takes 256."""
HELP: Final = """\
/help            this
/model [NAME]    which model answers, or choose another
/models          what the mesh offers now, and what it costs
/system [TEXT]   show or set what the model is told about itself; /system - for nothing
/reset           forget the conversation
/price           what this conversation and this day have cost
/save FILE       write the conversation to FILE, which must not be there yet
/quit            leave, as Ctrl-D does

Enter sends, Esc then Enter begins a new line.  Ctrl-C stops an answer; what was made of it by then is paid."""
COMMANDS: Final = ("/help", "/model", "/models", "/system", "/reset", "/price", "/save", "/quit")


@dataclass
class Talk:
    """*budget* in octas is for the whole conversation, 0 for none; *price* the most that one answer may cost."""

    model: str
    price: int
    budget: int = 0
    system: str = ""
    said: list[tuple[str, str]] = field(default_factory=list)
    """Role and text, in turns."""
    spent: int = 0
    answers: int = 0

    def messages(self, question: str) -> list[dict[str, str]]:
        """What goes with *question*: as much of what was said as a request takes.  Raises `PriceOverBudget`."""
        if self.budget and self.spent + self.price > self.budget:
            raise PriceOverBudget(
                f"this conversation has cost {octas(self.spent)} of its {octas(self.budget)}, and another answer may "
                f"cost {octas(self.price)}; begin again with a larger --budget, or a smaller --max-price"
            )
        before = [("system", self.system)] if self.system else []
        turns = [*before, *self.said[-MOST_MESSAGES:], ("user", question)]
        return [{"role": role, "content": text} for role, text in turns]

    def keep(self, question: str, result: Result) -> None:
        """The answer belongs to the conversation, also one that was stopped."""
        self.said += [("user", question), ("assistant", result.text)]
        self.spent += result.price
        self.answers += 1

    def reset(self) -> None:
        self.said.clear()

    def instruct(self, text: str) -> str:
        if text:
            self.system = "" if text == "-" else text
        return f"told: {self.system}" if self.system else "the model is told nothing about itself"

    def choose(self, name: str) -> str:
        if name:
            self.model = name
        return f"{printable(self.model)} answers"

    def cost(self, today: int, per_day: int) -> str:
        of_budget = f" of {octas(self.budget)}" if self.budget else ""
        of_day = f" of {octas(per_day)}" if per_day else ""
        return (
            f"{self.answers} answers here: at most {octas(self.spent)}{of_budget}\n"
            f"this account today (UTC): {octas(today)}{of_day}\nan answer may cost up to {octas(self.price)}"
        )

    def written(self) -> str:
        """As Markdown."""
        turns = ([("system", self.system)] if self.system else []) + self.said
        return "".join(f"## {role}\n\n{text}\n\n" for role, text in turns)


def split(line: str) -> tuple[str, str]:
    """A command and what follows it.  Raises `UsageError` for one that there is not."""
    name, _, rest = line.partition(" ")
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise UsageError(f"there is no {name}{f'; did you mean {near[0]}?' if near else ''} (/help lists all)")
    return name, rest.strip()


def listed(models: Sequence[Listed], chosen: str) -> str:
    """A line for each model that can be placed now."""
    if not models:
        return "nobody offers a model now"
    lines = []
    for each in models:
        price = each.offer.price
        mark = "*" if each.offer.name == chosen else " "
        lines.append(
            f"{mark} {printable(each.offer.name):30}  {each.orchestrators} serve it, from {price.base:,} + "
            f"{price.input_per_1k:,}/{price.output_per_1k:,} octas per 1,000 tokens in/out"
        )
    return "\n".join(lines)
