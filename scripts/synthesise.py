"""Make code-switched sentences, and speech of them.

    python scripts/synthesise.py sentences --out sentences.jsonl --num 100000            # the embedded domain
    python scripts/synthesise.py sentences --out mixed.jsonl --text my_corpus.txt        # English into your own text
    python scripts/synthesise.py speech --out data/demo --train 2000 --test 200 --workers 4
    python scripts/synthesise.py speech --out data/mine/train --sentences mixed.jsonl --workers 4

Without --sentences, `speech` writes train, validation, test_seen and test_unseen folders (the last in voices that the
others do not hold). An interrupted run is taken up again by the same command. Needs espeakng-loader.
"""

import argparse
import logging
import os
from itertools import islice
from pathlib import Path

from data_scripts.synthesis.corpus import synthesise_corpus, synthesise_splits
from data_scripts.synthesis.espeak import EspeakError
from data_scripts.synthesis.insertion import insert_english
from data_scripts.synthesis.sentences import SPLITS, generate_sentences, read_sentences, write_sentences
from data_scripts.synthesis.speech import make_speakers


def sentences(args: argparse.Namespace) -> None:
    if args.text:
        with open(args.text, encoding="utf-8") as lines:
            rows = insert_english(lines, args.seed, split=args.split, corpus=args.text.stem)
            count = write_sentences(islice(rows, args.num), args.out)
    else:
        share = args.code_switched_share
        rows = generate_sentences(args.num or 10_000, args.seed, split=args.split, code_switched_share=share)
        count = write_sentences(rows, args.out)
    print(f"{count} sentences in {args.out}")


def speech(args: argparse.Namespace) -> None:
    if args.sentences:
        speakers, _ = make_speakers(args.seen_speakers, args.unseen_speakers, args.seed)
        rows = list(read_sentences(args.sentences))
        reports = {args.out.name: synthesise_corpus(rows, speakers, args.out, args.workers, args.seed, progress=True)}
    else:
        names = ("train", "validation", "test", "seen_speakers", "unseen_speakers", "code_switched_share", "seed")
        wanted = {name: getattr(args, name) for name in names}
        reports = synthesise_splits(args.out, **wanted, num_workers=args.workers, progress=True)
    for name, report in reports.items():
        print(f"{name}: {report}")


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = root.add_subparsers(required=True)
    text = commands.add_parser("sentences", help="write labelled sentences as JSON lines")
    voice = commands.add_parser("speech", help="voice sentences into AudioFolder splits of 16 kHz FLAC")
    for command, run in ((text, sentences), (voice, speech)):
        command.set_defaults(run=run)
        command.add_argument("--seed", type=int, default=0, help="choice of everything (default 0)")
        command.add_argument("--code-switched-share", type=float, default=0.5, help="embedded domain: English (0.5)")
    text.add_argument(
        "--out", type=Path, required=True, help="JSON lines file to write: id, text, spans, split, corpus"
    )
    text.add_argument("--num", type=int, help="sentences to write (default 10000, or every line of --text)")
    text.add_argument("--split", choices=[*SPLITS], help="only sentences of this split (they never share one)")
    text.add_argument("--text", type=Path, help="corpus, one sentence a line, to set English into")
    voice.add_argument("--out", type=Path, required=True, help="folder to write")
    voice.add_argument("--sentences", type=Path, help="JSON lines made by `sentences`; else the embedded domain")
    for name, default in (("train", 2000), ("validation", 100), ("test", 200)):
        voice.add_argument(f"--{name}", type=int, default=default, help=f"sentences (default {default})")
    voice.add_argument("--seen-speakers", type=int, default=24, help="voices of training (default 24)")
    voice.add_argument("--unseen-speakers", type=int, default=6, help="voices of test_unseen only (default 6)")
    voice.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    return root


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except (EspeakError, ValueError, OSError) as error:
        raise SystemExit(f"synthesise: {error}") from error
