"""The corpora as text for people: one table of all, one page of each."""

from collections.abc import Mapping
from types import ModuleType

from rich.table import Table

from data_scripts.corpora.facts import LEFT_OUT, CorpusInfo


def table(corpora: Mapping[str, CorpusInfo]) -> Table:
    """All corpora, a line each."""
    lines = Table("name", "hours", "lang", "text", "emotion", "licence", "gated", "Hub id", title="Corpora")
    lines.columns[1].justify = "right"
    for info in corpora.values():
        lines.add_row(
            info.name,
            "?" if info.hours is None else f"{info.hours:,.{0 if info.hours >= 10 else 1}f}",
            " ".join(info.languages),
            "yes" if info.has_text else "-",
            "yes" if info.has_emotion else "-",
            info.licence,
            "yes" if info.gated else "-",
            info.hub_id or "(local copy)",
        )
    return lines


def description(module: ModuleType) -> str:
    """Everything about the corpus of a module."""
    info: CorpusInfo = module.INFO
    hours = f"{info.hours:,g} h" if info.hours else "unknown"
    lines = [
        f"{info.name}: {info.title}",
        "",
        (module.__doc__ or "").strip(),
        "",
        f"hours:      {hours}",
        f"languages:  {', '.join(info.languages)}",
        f"splits:     {', '.join(info.splits)}",
        f"rows carry: text {'yes' if info.has_text else 'no'}, emotion {'yes' if info.has_emotion else 'no'}",
        f"licence:    {info.licence}",
        f"homepage:   {info.homepage}",
        f"Hub id:     {info.hub_id or 'none'}{' (gated)' if info.gated else ''}",
        f"to get it:  {info.how_to_get()}",
    ]
    if info.notes:
        lines += ["", info.notes.strip()]
    if info.columns:
        lines += ["", "Columns of the Hub form (ours: theirs):"]
        lines += [f"  {ours}: {theirs}" for ours, theirs in info.columns.items()]
    for key, labels in info.labels.items():
        lines += ["", f"Labels of {key} (theirs: ours):"]
        lines += [f"  {theirs}: {'no value' if ours is None else ours}" for theirs, ours in labels.items()]
        if LEFT_OUT in labels.values():
            lines.append(f"  Rows {LEFT_OUT} are counted in the log.")
    if info.layout:
        lines += ["", "Local copy:", *(f"  {line}" for line in info.layout.strip("\n").splitlines())]
    return "\n".join([*lines, "", "Cite:", info.citation.strip()])
