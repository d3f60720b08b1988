"""Shows what a text sounds like: `python -m data_scripts.text "hôm nay có [en]meeting[/en]"`.

Words, their language and where the pronunciation comes from, then the phonemes in both registers and the words
nothing could be said for. English goes between [en] and [/en]; `--seed` draws one of the pronunciation variants.
"""

from __future__ import annotations

import argparse
import sys

from data_scripts.spans import SpanError, parse_marked_text
from data_scripts.text.dialects import DIALECTS
from data_scripts.text.g2p import G2P
from data_scripts.text.normalize import normalize_with_spans, text_problems
from data_scripts.text.phonemes import full_to_vmd


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit status is 1 if a word was unknown, 2 if the marks are wrong."""
    parser = argparse.ArgumentParser(prog="python -m data_scripts.text", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("text", nargs="+", help="the text, English between [en] and [/en]")
    parser.add_argument("--seed", type=int, default=None, help="draw variants (default: the most probable ones)")
    parser.add_argument(
        "--dialect", choices=DIALECTS, default=None, help="as said there (default: the label's sounds)"
    )
    parser.add_argument("--separator", action="store_true", help="put $ between words")
    options = parser.parse_args(arguments)
    try:
        raw, labels = parse_marked_text(" ".join(options.text))
    except SpanError as error:
        parser.error(str(error))
    text, spans = normalize_with_spans(raw, labels)
    said = G2P(separator=options.separator).phonemise(text, spans, seed=options.seed, dialect=options.dialect)
    lines = [f"text      {text}"]
    lines += [f"  {w.text:<14} {w.lang or '-':<3} {w.source:<11} {' '.join(w.phonemes)}" for w in said.words]
    lines += [f"full      {' '.join(said.phonemes)}", f"vmd       {' '.join(full_to_vmd(said.phonemes))}"]
    lines += [f"unknown   {', '.join(said.unknown)}"] if said.unknown else []
    problems = text_problems(raw)
    lines += [f"problems  {', '.join(problems)}"] if problems else []
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if said.unknown else 0


if __name__ == "__main__":
    sys.exit(main())
