"""The text that the self-test model learns: questions and answers from facts.txt, and small stories from a grammar.

All of it is ours (MIT).  Knows nothing of tokenizers and models; the same random source gives the same text.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

FACTS_FILE: Final = Path(__file__).with_name("facts.txt")
PHRASES_FILE: Final = Path(__file__).with_name("phrases.toml")

_PHRASES: Final[dict[str, list[str]]] = tomllib.loads(PHRASES_FILE.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer and the ways to ask for it.  *names* fit "What is ...?", *questions* stand as they are."""

    names: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Turn:
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Document:
    """A conversation (``turns``, perhaps with a *system* text), or plain *text* when there are no turns."""

    turns: tuple[Turn, ...] = ()
    system: str | None = None
    text: str = ""


def read_facts(path: Path = FACTS_FILE) -> list[Fact]:
    facts = []
    names: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        forms = tuple(form.strip() for form in line[1:].split("|"))
        if line.startswith("@"):
            names = forms
        elif line.startswith("?"):
            questions = forms
        else:
            facts.append(Fact(names, questions, line))
            names, questions = (), ()
    return facts


# --- asking ------------------------------------------------------------------------------------------------------


def ask(fact: Fact, rng: random.Random) -> str:
    if fact.names and (not fact.questions or rng.random() < 0.5):
        question = rng.choice(_PHRASES["ask_name"]).format(rng.choice(fact.names))
    else:
        question = rng.choice(fact.questions)
    return _carelessly(rng.choice(_PHRASES["around"]).format(question), rng)


def _carelessly(text: str, rng: random.Random) -> str:
    """As people type: often in small letters, without the mark at the end, now and then with a slip."""
    if rng.random() < 0.3:
        text = text.lower()
    if rng.random() < 0.25:
        text = text.rstrip("?.!")
    if rng.random() < 0.06 and len(text) > 8:
        at = rng.randrange(1, len(text) - 1)
        text = text[:at] + text[at + 1 :]
    return text


# --- the grammar of the stories ----------------------------------------------------------------------------------


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


class Grammar:
    """Makes sentences that are grammatical and of no great importance."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, kind: str) -> str:
        return self._rng.choice(_PHRASES[kind])

    def fill(self, template: str, **fixed: str) -> str:
        thing, animal = self.pick("things"), self.pick("animals")
        words = {
            "name": self.pick("names"),
            "name2": self.pick("names"),
            "place": self.pick("towns") if template in _PHRASES["unknown"] else self.pick("places"),
            "thing": thing,
            "a_thing": _article(thing),
            "the_thing": f"the {thing}",
            "animal": animal,
            "a_animal": _article(animal),
            "the_animal": f"the {animal}",
            "food": self.pick("foods"),
            "quality": self.pick("qualities"),
            "gibberish": "".join(
                self._rng.choice("aeioubcdfghklmnprstvwxyz") for _ in range(self._rng.randrange(3, 9))
            ),
            "n": str(self._rng.randrange(2, 100)),
            "m": str(self._rng.randrange(2, 100)),
        }
        return template.format(**words | fixed)

    def unknown(self) -> Turn:
        question = self.fill(self._rng.choice(_PHRASES["unknown"]))
        if self._rng.random() < 0.3:
            question = self._rng.choice(_PHRASES["around"]).format(question)
        return Turn(_carelessly(question, self._rng), self._rng.choice(_PHRASES["no_idea"]))

    def asked_story(self) -> Turn:
        name, animal = self.pick("names"), self.pick("animals")
        template = self._rng.choice(_PHRASES["ask_story"])
        question = self.fill(template, name=name, the_animal=f"the {animal}", a_animal=_article(animal))
        if "animal" in template:
            return Turn(question, self.story(hero=f"the {animal}"))
        return Turn(question, self.story(hero=name))

    def story(self, hero: str | None = None) -> str:
        rng, pick = self._rng, self.pick
        hero = hero or rng.choice((pick("names"), f"the {pick('animals')}"))
        friend = rng.choice([name for name in _PHRASES["names"] if name != hero])
        known = {
            "name": _capital(hero),
            "hero": hero,
            "name2": friend,
            "thing": pick("things"),
            "place": pick("places"),
        }
        middle = rng.sample(self._middle(hero, friend, known), rng.randrange(1, 6))
        return " ".join([self._opening(hero, known), *middle, self.fill(pick("endings"), **known)])

    def _opening(self, hero: str, known: dict[str, str]) -> str:
        rng, pick = self._rng, self.pick
        quality, want = pick("qualities"), self.fill(pick("wants"), **known)
        place, friend, weather = known["place"], known["name2"], pick("weathers")
        described = hero.replace("the ", f"the {quality} ") if hero.startswith("the ") else f"{quality} {hero}"
        return rng.choice(
            (
                f"One day {described} wanted {want}.",
                f"{weather} when {hero} came to {place}.",
                f"Near {place} there lived {_article(quality)} friend of {friend} whom all called {hero}.",
                f"Once {described} went to {place} {want}.",
                f"{weather}, and {hero} wanted {want}.",
            )
        )

    def _middle(self, hero: str, friend: str, known: dict[str, str]) -> list[str]:
        """One sentence of each kind, so that no kind comes twice in a story."""
        pick = self.pick

        def deed() -> str:
            return self.fill(pick("deeds"), **known)

        def trouble() -> str:
            return self.fill(pick("troubles"), **known)

        def who() -> str:
            return self._rng.choice((hero, friend))

        first, second = self._rng.sample(_PHRASES["qualities"], 2)
        return [
            f"But {trouble()}.",
            f"{pick('links')} {who()} {deed()}.",
            f"{_quoted(pick('sayings'))} {pick('speaks')} {who()}.",
            f"Because {trouble()}, {who()} {deed()}.",
            f"{_capital(who())} {deed()}, but {trouble()}.",
            f"{pick('weathers')}, so {who()} {deed()}.",
            f"{_capital(who())} was {first} and {second}.",
        ]


def _quoted(saying: str) -> str:
    return f'"{saying},"'


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- documents ---------------------------------------------------------------------------------------------------


def documents(facts: list[Fact], rng: random.Random) -> list[Document]:
    """One pass: every fact as a question in a chat and often in plain text too, with stories and riddles between."""
    grammar = Grammar(rng)
    found = []
    for fact in facts:
        found.append(_conversation([Turn(ask(fact, rng), fact.answer)], rng))
        if rng.random() < 0.35:
            found.append(Document(text=f"{ask(fact, rng)} {fact.answer}"))
        if rng.random() < 0.12:
            found.append(_conversation([_any_turn(facts, grammar, rng), Turn(ask(fact, rng), fact.answer)], rng))
        if rng.random() < 0.05:
            found.append(Document(text=fact.answer))
        if rng.random() < 0.4:
            found.append(_conversation([grammar.unknown()], rng))
        if rng.random() < 0.04:
            found.append(_conversation([_difference(facts, rng)], rng))
        if rng.random() < 0.1:
            found.append(_conversation([grammar.asked_story()], rng))
        if rng.random() < 0.25:
            found.append(Document(text=grammar.story()))
        if rng.random() < 0.03:
            found.append(_long(facts, grammar, rng))
    rng.shuffle(found)
    return found


def _conversation(turns: list[Turn], rng: random.Random) -> Document:
    return Document(tuple(turns), rng.choice(_PHRASES["systems"]) if rng.random() < 0.2 else None)


def _difference(facts: list[Fact], rng: random.Random) -> Turn:
    """Two things asked for at once are explained one after the other."""
    one, other = rng.sample([fact for fact in facts if fact.names], 2)
    question = rng.choice(_PHRASES["ask_difference"]).format(one.names[0], other.names[0])
    return Turn(_carelessly(question, rng), f"{one.answer} {other.answer}")


def _any_turn(facts: list[Fact], grammar: Grammar, rng: random.Random) -> Turn:
    fact = rng.choice(facts)
    return rng.choice((grammar.unknown(), grammar.asked_story(), Turn(ask(fact, rng), fact.answer)))


def _long(facts: list[Fact], grammar: Grammar, rng: random.Random) -> Document:
    """A conversation or a chain of stories that reaches far into the context."""
    if rng.random() < 0.5:
        return _conversation([_any_turn(facts, grammar, rng) for _ in range(rng.randrange(4, 10))], rng)
    return Document(text=" ".join(grammar.story() for _ in range(rng.randrange(3, 7))))
