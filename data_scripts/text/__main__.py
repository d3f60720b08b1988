"""Shows what a text sounds like: `python -m data_scripts.text "hôm nay có [en]meeting[/en]"`.

The text as it is said (numbers, dates, units and abbreviations written out), its words with their language and where
the pronunciation comes from, the phonemes in both registers, and the words nothing could be said for. English goes
between [en] and [/en]; `--seed` draws one of the pronunciation variants; `--as_written` leaves numbers alone.
"""

from __future__ import annotations

import argparse
import sys

from data_scripts.spans import SpanError, mark_text, parse_marked_text
from data_scripts.text.dialects import DIALECTS
from data_scripts.text.g2p import G2P
from data_scripts.text.normalize import normalize_with_spans, text_problems
from data_scripts.text.phonemes import full_to_vmd
from data_scripts.text.spoken import spoken_form


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit status is 1 if a word was unknown, 2 if the marks are wrong."""
    parser = argparse.ArgumentParser(prog="python -m data_scripts.text", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("text", nargs="+", help="the text, English between [en] and [/en]")
    parser.add_argument("--seed", type=int, default=None, help="draw variants (default: the most probable ones)")
    parser.add_argument(
        "--dialect", choices=DIALECTS, default=None, help="as said there (default: the label's sounds)"
    )
    parser.add_argument("--separator", action="store_true", help="put $ between words")
    parser.add_argument("--as_written", action="store_true", help="do not write out numbers and abbreviations first")
    options = parser.parse_args(arguments)
    try:
        raw, labels = parse_marked_text(" ".join(options.text))
    except SpanError as error:
        parser.error(str(error))
    written = mark_text(raw, labels)
    if not options.as_written:
        raw, labels = spoken_form(raw, labels)
    text, spans = normalize_with_spans(raw, labels)
    said = G2P(separator=options.separator).phonemise(text, spans, seed=options.seed, dialect=options.dialect)
    lines = [f"spoken    {said_text}"] if (said_text := mark_text(raw, labels)) != written else []
    lines += [f"text      {text}"]
    lines += [f"  {w.text:<14} {w.lang or '-':<3} {w.source:<11} {' '.join(w.phonemes)}" for w in said.words]
    lines += [f"full      {' '.join(said.phonemes)}", f"vmd       {' '.join(full_to_vmd(said.phonemes))}"]
    lines += [f"unknown   {', '.join(said.unknown)}"] if said.unknown else []
    problems = text_problems(raw)
    lines += [f"problems  {', '.join(problems)}"] if problems else []
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if said.unknown else 0


if __name__ == "__main__":
    sys.exit(main())
