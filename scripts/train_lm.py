"""Train a 4-gram language model (modified Kneser-Ney) and measure its perplexity on held-out sentences.

    python scripts/train_lm.py --text sentences.txt.xz data/vivos data/fosd --output lm.arpa.gz
    python scripts/train_lm.py --text data/vivos --order 5 --prune 0 0 1 --held_out data/vivos:test --output lm.arpa

--text takes files of sentences (.txt) or rows (.jsonl, .csv, .tsv with a text) and prepared folders, FOLDER:SPLIT for
a split other than train. CPU only; 2 million words take half a minute on one core, most of it normalisation. The file
is ARPA: kenlm, SRILM and decoders read it.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from data_scripts.curation.ngram import train_ngram
from data_scripts.curation.ngram_text import is_held_out, read_all_texts
from data_scripts.readers import SourceError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", required=True, help="files and prepared folders")
    parser.add_argument("--order", type=int, default=4, help="longest n-gram; default 4")
    parser.add_argument("--prune", nargs="+", type=int, default=[], help="drop n-grams this rare, by order: 0 0 1")
    parser.add_argument("--output", type=Path, required=True, help=".arpa, .arpa.gz or .arpa.xz; never written over")
    parser.add_argument("--held_out", nargs="+", help="texts to measure on; default: a share of --text")
    parser.add_argument("--held_out_share", type=float, default=0.01, help="of --text, not trained on; default 0.01")
    args = parser.parse_args(argv)
    if args.output.exists():
        parser.error(f"{args.output} is there; choose another --output")
    share = 0.0 if args.held_out else args.held_out_share
    console, began, held_out = Console(soft_wrap=True), time.monotonic(), []
    try:
        texts = []
        for text in read_all_texts(args.text):
            (held_out if is_held_out(text, share) else texts).append(text)
        held_out += read_all_texts(args.held_out or ())
        model = train_ngram(texts, args.order, prune=args.prune)
        model.save(args.output)
    except (SourceError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(f"{count:,} {order}-grams" for order, count in enumerate(model.counts, 1))
    console.print(f"{args.output}: {len(texts):,} sentences, {counts}, {time.monotonic() - began:.0f} s")
    found = model.perplexity(held_out)
    console.print(f"{len(held_out):,} held-out sentences: perplexity {found.known_words:.1f},")
    console.print(f"{found.all_words:.1f} with the {found.num_unknown} unknown ones of {found.num_words} words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
