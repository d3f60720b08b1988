"""Sentence templates with typed slots, compiled once and checked so that no sentence can be written in two ways.

A template is a line of words in which `{slot}` stands for any filler of that slot and `[word]` marks English:
`{part} {day} có [meeting] không`. Fillers use the same marks. Every choice of fillers is one sentence, so a template
is a mixed-radix number and sentence k of it is found without writing out the others.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import prod

from data_scripts.spans import Span, check_spans

_MARKED = re.compile(r"\[([^\[\]{}]+)\]|\{([^\[\]{}]+)\}|([^\s\[\]{}]+)")

Phrase = tuple[tuple[str, str], ...]
"""Words with their language: (("gửi", "vi"), ("email", "en"))."""


@dataclass(frozen=True, slots=True)
class Template:
    """One compiled template: a phrase for each filler of each slot; plain words are slots with one filler.

    Attributes:
        id: name of the template in its file.
        slots: for each position the possible phrases, in file order.
        code_switched: whether its sentences hold English words (all of them do, or none).
    """

    id: str
    slots: tuple[tuple[Phrase, ...], ...]
    code_switched: bool

    @property
    def capacity(self) -> int:
        """Number of sentences this template writes."""
        return prod(len(slot) for slot in self.slots)

    def sentence(self, k: int) -> tuple[str, list[Span]]:
        """Sentence number `k` (0 ≤ k < capacity) as text and English spans."""
        words: list[tuple[str, str]] = []
        for slot in self.slots:
            k, choice = divmod(k, len(slot))
            words.extend(slot[choice])
        return join_words(words)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A set of templates of which no two (fillers included) write the same sentence.

    Raises:
        ValueError: two ways lead to one sentence; the message shows the sentence and both templates.
    """

    templates: tuple[Template, ...]

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError("a grammar needs at least one template, got none")
        clash = _ambiguity(self.templates)
        if clash is not None:
            sentence, first, second = clash
            raise ValueError(
                f"templates {first!r} and {second!r} both write {sentence!r}; every sentence must have one way only: "
                "change a template, or remove a filler that another filler already covers"
            )

    def vocabulary(self) -> set[tuple[str, str]]:
        """Every (word, language) that a sentence can hold."""
        return {word for t in self.templates for slot in t.slots for phrase in slot for word in phrase}

    @classmethod
    def from_lines(cls, templates: Iterable[tuple[str, str]], slots: dict[str, list[str]]) -> "Grammar":
        """Compile (id, template) pairs and the fillers of each slot.

        Raises:
            ValueError: an unknown slot, a stray bracket, an empty or repeated entry, a slot with and without English.
        """
        phrases = {name: tuple(parse_phrase(f, f"slot {name!r}") for f in fillers) for name, fillers in slots.items()}
        for name, options in phrases.items():
            if not options:
                raise ValueError(f"slot {name!r} has no fillers")
            if len({has_english(phrase) for phrase in options}) > 1:
                raise ValueError(f"slot {name!r} mixes fillers with and without English; split it in two slots")
        compiled, seen = [], set()
        for template_id, line in templates:
            if template_id in seen:
                raise ValueError(f"template id {template_id!r} occurs twice")
            seen.add(template_id)
            parts: list[tuple[Phrase, ...]] = []
            for english, slot, word in _tokens(line, f"template {template_id!r}"):
                if slot and slot not in phrases:
                    raise ValueError(f"template {template_id!r}: unknown slot {slot!r}; known: {sorted(phrases)}")
                parts.append(phrases[slot] if slot else (_words(english or word, "en" if english else "vi"),))
            if not parts:
                raise ValueError(f"template {template_id!r} is empty")
            english_inside = any(has_english(options[0]) for options in parts)
            compiled.append(Template(template_id, tuple(parts), english_inside))
        return cls(tuple(compiled))


@cache
def demo_grammar() -> Grammar:
    """The embedded bounded domain: daily life, travel and the office, half of its templates code-switched."""
    slots = {row["slot"]: row["fillers"].split("|") for row in read_resource("slots.tsv")}
    return Grammar.from_lines([(row["id"], row["template"]) for row in read_resource("templates.tsv")], slots)


def read_resource(name: str) -> list[dict[str, str]]:
    """Rows of a tab-separated table in `resources/`, by column name."""
    text = files("data_scripts.synthesis").joinpath("resources", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def join_words(words: Iterable[tuple[str, str]]) -> tuple[str, list[Span]]:
    """Words with languages to text and spans: one span for every maximal run of English, none for Vietnamese."""
    text, spans = "", []
    previous = None
    for word, lang in words:
        start = len(text) + 1 if text else 0
        text = f"{text} {word}" if text else word
        if lang == "en" and previous == "en":
            spans[-1]["end"] = len(text)
        elif lang == "en":
            spans.append(Span(start=start, end=len(text), lang="en"))
        previous = lang
    return text, spans


def split_languages(text: str, spans: Iterable[Span]) -> Iterator[tuple[str, str]]:
    """(lang, piece) runs of a labelled text in order, spaces trimmed; what no span covers is Vietnamese.

    Raises:
        SpanError: spans that do not fit the text.
    """
    position = 0
    for span in check_spans(text, spans):
        yield from _pieces("vi", text[position : span["start"]])
        yield from _pieces(span["lang"], text[span["start"] : span["end"]])
        position = span["end"]
    yield from _pieces("vi", text[position:])


def _pieces(lang: str, piece: str) -> Iterator[tuple[str, str]]:
    if piece.strip():
        yield lang, piece.strip()


def _tokens(line: str, where: str) -> list[tuple[str, str, str]]:
    tokens = _MARKED.findall(line)
    rest = _MARKED.sub("", line).strip()
    if rest:
        raise ValueError(f"{where}: stray {rest!r} in {line!r}; write {{slot}} and [english]")
    return tokens


def _words(text: str, lang: str) -> Phrase:
    return tuple((word, lang) for word in text.split())


def parse_phrase(filler: str, where: str) -> Phrase:
    """A marked phrase without slots, "hẹn [meeting] nhé", as words with their language."""
    words: list[tuple[str, str]] = []
    for english, slot, word in _tokens(filler, where):
        if slot:
            raise ValueError(f"{where}: filler {filler!r} holds a slot; only templates may")
        words.extend(_words(english or word, "en" if english else "vi"))
    if not words:
        raise ValueError(f"{where}: empty filler")
    return tuple(words)


def has_english(phrase: Phrase) -> bool:
    """Whether any word of the phrase is English."""
    return any(lang == "en" for _, lang in phrase)


_Place = tuple[int, int, tuple[str, ...]]


def _ambiguity(templates: tuple[Template, ...]) -> tuple[str, str, str] | None:
    """A sentence with two derivations and their template ids, or None: subset construction over all templates.

    A state is the set of places reachable by one word sequence. A place is (template, next slot, words left of the
    filler under way); two derivations that reach one place, or two places that end, write the same sentence.
    """

    def enter(template: int, slot: int) -> list[_Place]:
        slots = templates[template].slots
        if slot == len(slots):
            return [(template, slot, ())]
        return [(template, slot + 1, tuple(word for word, _ in phrase)) for phrase in slots[slot]]

    start: list[_Place] = [place for t in range(len(templates)) for place in enter(t, 0)]
    pending: list[tuple[tuple[str, ...], list[_Place]]] = [((), start)]
    known: set[frozenset[_Place]] = set()
    while pending:
        prefix, places = pending.pop()
        state = frozenset(places)
        if state in known:
            continue
        known.add(state)
        done = [place for place in places if not place[2]]
        twice = next((p for p in places if places.count(p) > 1), None) if len(state) < len(places) else None
        if twice is not None or len(done) > 1:
            first, second = (twice, twice) if twice is not None else done[:2]
            rest = [w for slot in templates[first[0]].slots[first[1] :] for w, _ in slot[0]]
            return " ".join([*prefix, *first[2], *rest]), templates[first[0]].id, templates[second[0]].id
        successors: dict[str, list[_Place]] = {}
        for template, slot, left in places:
            for word in left[:1]:
                nexts = [(template, slot, left[1:])] if left[1:] else enter(template, slot)
                successors.setdefault(word, []).extend(nexts)
        pending.extend(((*prefix, word), nexts) for word, nexts in successors.items())
    return None
