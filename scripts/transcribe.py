"""Transcribe audio files and folders with any speech recognition model.

    python scripts/transcribe.py recordings/ --model runs/demo/joint/model
    python scripts/transcribe.py a.wav b.mp3 calls/ --model my-name/my-model --output calls.jsonl --phonemes
    python scripts/transcribe.py meeting.flac --model my-name/my-zipformer --num_beams 15 --timestamps word

Writes one JSON line a file and goes on where it was interrupted; the plain text is beside it (.txt). A file that
cannot be read is one error line, and the others go on. Exit status 1: some files failed; 2: nothing could be done.
"""

import logging
import os
import sys
from dataclasses import fields

from tqdm import tqdm

from trainers.command_line import TranscriptionArguments, load_arguments


def main(argv: list[str] | None = None) -> int:
    """Transcribe; returns the exit status."""
    args = load_arguments(TranscriptionArguments, argv, positional=["input"], usage=__doc__)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from trainers.recognisers import load_recogniser
    from trainers.transcription import Settings, find_audio, pending, transcribe_files

    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    try:
        files = find_audio(args.input)
        todo = pending(files, args.output, settings)
        options = {"device": args.device, "dtype": args.dtype, "trust_remote_code": args.trust_remote_code}
        with tqdm(
            total=len(files), initial=len(files) - len(todo), unit="file", disable=not sys.stderr.isatty()
        ) as bar:

            def show(entry: dict) -> None:
                bar.update()
                failed = "error" in entry
                bar.write(
                    f"error: {entry['error']}" if failed else f"{os.path.basename(entry['file'])}: {entry['text']}",
                    file=sys.stderr if failed else sys.stdout,
                )

            recogniser = load_recogniser(args.model, guards=args.guards, **options) if todo else None
            entries = transcribe_files(
                recogniser, files, args.output, settings, batch_size=args.batch_size, on_result=show
            )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failures = sum("error" in entry for entry in entries)
    print(f"{len(entries) - failures} of {len(entries)} files transcribed: {args.output}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
