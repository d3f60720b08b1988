"""Transcribe audio files and folders with any speech recognition model, and hear their emotion.

    python scripts/transcribe.py recordings/ --model runs/demo/joint/model
    python scripts/transcribe.py a.wav b.mp3 calls/ --model my-name/my-model --output calls.jsonl --phonemes
    python scripts/transcribe.py calls/ --model my-name/my-model --emotion my-name/my-ser --formats srt csv txt
    python scripts/transcribe.py meeting.flac --model my-name/my-zipformer --timestamps word --formats vtt

Writes one JSON line a file and goes on where it was interrupted; subtitles, tables and plain text are made of these
lines, each time anew. A file that cannot be read is one error line, and the others go on. Exit status 1: some files
failed; 2: nothing could be done; 130: interrupted.
"""

import logging
import os
import sys
import time
from dataclasses import fields

from tqdm import tqdm

from trainers.command_line import TranscriptionArguments, load_arguments


def main(argv: list[str] | None = None) -> int:
    """Transcribe; returns the exit status."""
    args = load_arguments(TranscriptionArguments, argv, positional=["input"], usage=__doc__)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from trainers.classifiers import load_classifier
    from trainers.recognisers import load_recogniser
    from trainers.transcription import Settings, find_audio, interruptible, pending, transcribe_files
    from trainers.understanding import read_rules

    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    try:
        files = find_audio(args.input)
        todo = pending(files, args.output, settings)
        read_rules(args.rules)  # a mistake in them is said before models are loaded
        options = {"device": args.device, "dtype": args.dtype, "trust_remote_code": args.trust_remote_code}
        recogniser = load_recogniser(args.model, guards=args.guards, **options) if todo else None
        classifier = load_classifier(args.emotion, **options) if todo and args.emotion else None
        start, heard_s = time.perf_counter(), 0.0
        done = len(files) - len(todo)
        with (
            interruptible() as check,
            tqdm(total=len(files), initial=done, unit="file", disable=not sys.stderr.isatty()) as bar,
        ):

            def show(entry: dict) -> None:
                nonlocal heard_s
                check()
                heard_s += 0.0 if "error" in entry else entry["duration_s"]
                bar.set_postfix_str(f"RTF {(time.perf_counter() - start) / heard_s:.3f}" if heard_s else "")
                bar.update()
                name, label = os.path.basename(entry["file"]), f"[{entry['emotion']}] " if "emotion" in entry else ""
                said = f"error: {entry['error']}" if "error" in entry else f"{name}: {label}{entry['text']}"
                bar.write(said, file=sys.stderr if "error" in entry else sys.stdout)

            entries = transcribe_files(
                recogniser, files, args.output, settings, batch_size=args.batch_size, on_result=show,
                classifier=classifier, formats=args.formats, output_folder=args.output_folder,
            )  # fmt: skip
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: the same command goes on with {args.output}", file=sys.stderr)
        return 130
    failures = sum("error" in entry for entry in entries)
    print(f"{len(entries) - failures} of {len(entries)} files transcribed: {args.output}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
