"""README.md of a prepared folder: what is in it, where it came from, and how it was made."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_scripts.drop_report import DropReport
from data_scripts.files import write_text
from data_scripts.preparing.folder import REPORT_FILE, RUN_FILE, STATE

if TYPE_CHECKING:
    from data_scripts.corpora import CorpusInfo

CARD_FILE = "README.md"
USUAL_ORDER = ("train", "validation", "test")


def write_card(folder: str | Path, title: str, info: "CorpusInfo | None" = None, command: str = "") -> Path:
    """Describe a folder from its own records, so that every run over the same data writes the same card.

    Args:
        folder: an output folder of `prepare_validated`, with any number of splits.
        title: name of the corpus.
        info: facts of a known corpus: licence and citation are taken over.
        command: what makes it again.
    """
    folder = Path(folder)
    reports = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    splits = sorted(reports, key=lambda split: (*(split != name for name in USUAL_ORDER), split))
    runs = {split: _read(folder / STATE / split / RUN_FILE) for split in splits}
    front = {
        "pretty_name": info.title if info else title,
        "language": list(info.languages) if info else ["vi"],
        "license": "other",
        "task_categories": _tasks(info),
        "tags": ["speech", "amvi"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}-*.parquet"} for split in runs],
            }
        ],
    }
    lines = ["---", yaml.safe_dump(front, allow_unicode=True, sort_keys=False).strip(), "---", ""]
    lines += [f"# {front['pretty_name']}, checked and in shards", ""]
    licence = info.licence if info else "not stated by the source; ask its publisher"
    lines += [f"Licence of the recordings: {licence}.", ""]
    lines += ["| split | rows | hours | shards | rows dropped | most often |", "|---|---:|---:|---:|---:|---|"]
    for split in runs:
        report = DropReport.from_dict(reports[split])
        shards = len(list(folder.glob(f"{split}-*.parquet")))
        dropped = reports[split]["counts"]["dropped"]
        worst = ", ".join(f"{code} {count}" for code, count in Counter(dropped).most_common(3))
        lines.append(
            f"| {split} | {report.num_kept:,} | {report.seconds_kept / 3600:.2f} | {shards} | {report.num_dropped:,} "
            f"| {worst or '–'} |"
        )
    lines += ["", "Audio is kept as the files were; `text` is normalised, spans are character offsets into it."]
    lines += [f"`{REPORT_FILE}` names dropped rows and counts repairs.", "", "How it was made:", ""]
    for split, run in runs.items():
        lines += [f"- {split}: {_settings(run)}"]
    if command:
        lines += ["", "```", command, "```"]
    if info:
        lines += ["", f"Homepage: {info.homepage}", "", "```bibtex", info.citation.strip(), "```"]
    path = folder / CARD_FILE
    write_text(path, "\n".join(lines) + "\n")
    return path


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _tasks(info: "CorpusInfo | None") -> list[str]:
    tasks = ["automatic-speech-recognition"] if not info or info.has_text else []
    return tasks + (["audio-classification"] if info and info.has_emotion else [])


def _settings(run: dict[str, Any]) -> str:
    """Source and rules in one line, without paths of the machine."""
    source, limits = run["source"], run["limits"]
    parts = [f"source {Path(source['path']).name if source['path'].startswith('/') else source['path']}"]
    parts += [f"revision {source['revision']}"] if source.get("revision") else []
    parts += [f"{name.replace('_', ' ')} {value}" for name, value in sorted(run["versions"].items())]
    parts.append(f"{limits['min_duration_s']:g} to {limits['max_duration_s']:g} s")
    if limits["keep_text_problems"]:
        parts.append(f"rows with {', '.join(limits['keep_text_problems'])} kept")
    return ", ".join(parts)
