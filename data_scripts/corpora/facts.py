"""What a corpus module states, without importing `datasets`: a listing of all of them takes milliseconds."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_scripts.readers import SourceError

Record = dict[str, Any]
"""An utterance before validation: `id`, `audio` and any of `text`, `speaker`, `dialect`, `emotion`."""

LEFT_OUT = "(left out)"
"""In `CorpusInfo.labels`: rows of this label are not given, but counted in the log."""


class CorpusError(SourceError):
    """A corpus that cannot be read; the message says what was looked for, what was found and what to do."""


@dataclass(frozen=True, kw_only=True)
class CorpusInfo:
    """The facts of a corpus.

    Args:
        name: what configs and commands call it; also the module and the `corpus` column.
        title: its name in print.
        hours: hours of speech, all splits; None where nobody states them.
        licence: the terms, in short.
        citation: BibTeX.
        homepage: page of the publisher.
        hub_id: data set on the Hugging Face Hub; None where it may not or does not stand there.
        gated: the Hub asks to accept conditions first.
        access: how to get it where `hub_id` is None, or the official form beside the Hub.
        splits: our split → names of it in the source.
        languages: ISO 639-1 codes.
        has_text, has_emotion: rows carry a transcript, an emotion.
        columns: schema name → column of the Hub form.
        labels: `emotion` or `dialect` → label in the source (lower case) → value of the schema, None for "no value",
            or `LEFT_OUT` for rows that are not given.
        layout: the documented tree of a local copy; "" if there is none beside the Hub form.
        local_parts: our split → patterns of which a local copy must hold one.
        hub_archives: our split → patterns of files of the Hub that hold the official tree; empty for parquet.
        notes: what a user should know beforehand.
    """

    name: str
    title: str
    hours: float | None
    licence: str
    citation: str
    homepage: str
    hub_id: str | None = None
    gated: bool = False
    access: str = ""
    splits: Mapping[str, tuple[str, ...]]
    languages: tuple[str, ...] = ("vi",)
    has_text: bool = True
    has_emotion: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    layout: str = ""
    local_parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hub_archives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: str = ""

    def how_to_get(self) -> str:
        """The steps to a copy, as a sentence or two for people."""
        steps = []
        if self.hub_id and self.gated:
            page = f"https://huggingface.co/datasets/{self.hub_id}"
            steps.append(f"open {page}, accept the conditions, then run `hf auth login`")
        elif self.hub_id:
            steps.append(f"nothing to do: it is public on the Hub as {self.hub_id}")
        if self.layout:
            steps.append(
                f"{'or ' if steps else ''}set data_dir to a local copy{f' ({self.access})' if self.access else ''}"
            )
        return "; ".join(steps)


def builder_of(module_name: str) -> Callable[[str], Any]:
    """The `__getattr__` of a corpus module: `module.Builder`, a `datasets.GeneratorBasedBuilder`, made when asked for.

    The class needs `datasets`, which takes a second to import; the facts beside it do not.
    """

    def get(attribute: str) -> Any:
        if attribute != "Builder":
            raise AttributeError(f"module {module_name!r} has no attribute {attribute!r}")
        from data_scripts.corpora.base import CorpusBuilder

        module = importlib.import_module(module_name)
        members = {"__module__": module_name, "__doc__": module.__doc__, "corpus": module}
        module.Builder = type("Builder", (CorpusBuilder,), members)
        return module.Builder

    return get
