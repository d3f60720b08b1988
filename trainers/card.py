"""The model card (README.md) of a checkpoint folder, and the facts it is made from.

Everything that is not code or weights and leaves the machine passes through here, so only named fields are taken,
absolute paths shrink to their last part, tokens are masked and Markdown is escaped. The facts are kept beside the card
in `card.json`: a later evaluation adds its numbers without anyone having to remember how the model was trained.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .model_kinds import KINDS, Kind
from .public_names import public_command, public_name
from .secrets import mask_tokens

FACTS_FILE = "card.json"
TEMPLATE = Path(__file__).parent / "templates" / "card.md.j2"
UNNAMED_REPO = "your-name/your-model"
LABELS = {
    "wer": "WER",
    "syer": "SyER",
    "cer": "CER",
    "per_full": "PER (full)",
    "per_vmd": "PER (vmd)",
    "wer_vi": "WER on vi words",
    "wer_en": "WER on en words",
    "wer_switch": "WER at switch points",
    "uar": "UAR",
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "ece": "ECE",
}
NOTES = {
    "syer": "SyER: syllables, that is whitespace tokens after normalisation; WER keeps hyphenated words whole.",
    "per_full": "PER: phonemes, tones included, against the canonical pronunciation of the reference; `vmd` merges "
    "sounds that northern speech does not tell apart.",
    "per_vmd": "Register `vmd` has no way back to `full`: a model trained in it has a PER (vmd) only.",
    "wer_switch": "Switch points: words beside a language change. An inserted word is charged to the neighbour that "
    "is itself wrong, else to the preceding word.",
    "uar": "UAR: mean of the recalls of all classes (balanced accuracy); chance is one divided by their number.",
    "ece": "ECE: mean gap between the highest probability and how often it is right, over 15 bins of equal width.",
}
# Names that the Hub's leaderboards know.
_HUB_METRICS = {"uar": "recall", "f1_macro": "f1"}
_HUB_KNOWS = {"wer", "cer", "accuracy", "f1", "recall"}
TRAINING_FIELDS = (
    "audio_hours", "sentences", "epochs", "steps", "batch_size", "batch_duration_s", "learning_rate", "precision",
    "seed", "parameters", "trainable_parameters", "duration", "decoder", "encoder_window", "lora_rank",
    "loss", "optimiser", "schedule", "vocabulary_size", "averaging", "starting_point", "replay_share",
    "labels", "label_maps", "utterances", "class_weights", "sampling", "augmentation", "encoders", "fusion", "head",
    "pooling", "supcon_weight", "supcon_temperature", "label_smoothing", "knn", "knn_beta", "knn_neighbours",
    "knn_temperature", "streams", "classifiers", "ensemble_weights", "trials", "folds",
)  # fmt: skip


@dataclass
class Evaluation:
    """One row of the card's table: one model on one test set with one beam size, or used in one way (`variant`).

    `metrics` maps names of `LABELS` to a fraction or to `{"value", "low", "high"}` fractions, as `trainers.metrics`
    gives them; `model` names a baseline, None is the model of the card.
    """

    metrics: Mapping[str, Any]
    dataset: str
    split: str | None = None
    model: str | None = None
    num_beams: int | None = None
    num_utterances: int | None = None
    normalizer_version: str | None = None
    spoken_form_version: str | None = None
    command: str | None = None
    confidence: float = 0.95
    variant: str | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.metrics) - set(LABELS))
        if unknown:
            raise ValueError(f"a card has no column for {', '.join(unknown)}; known metrics: {', '.join(LABELS)}")
        for name, metric in self.metrics.items():
            value = metric["value"] if isinstance(metric, Mapping) else metric
            if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
                raise ValueError(f"metric {name} must be a fraction of at least 0, got {value!r}")


@dataclass
class CardFacts:
    """What a card may say. Fields left empty are left out; nothing is invented."""

    stage: Kind
    repo_id: str | None = None
    base_model: Sequence[str] = ()
    datasets: Sequence[str] = ()
    language: Sequence[str] = ()
    register: str = "full"
    normalizer_version: str | None = None
    spoken_form_version: str | None = None
    licence: str = "apache-2.0"
    command: str | None = None
    hardware: str | None = None
    commit: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    limitations: Sequence[str] = ()
    evaluations: list[Evaluation] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.stage not in KINDS:
            raise ValueError(f"stage must be one of {', '.join(KINDS)}, got {self.stage!r}")
        unknown = sorted(set(self.training) - set(TRAINING_FIELDS))
        if unknown:
            raise ValueError(f"a card does not publish {', '.join(unknown)}; allowed: {', '.join(TRAINING_FIELDS)}")
        if not self.language and KINDS[self.stage].task != "audio-classification":  # those hear any language
            self.language = ["vi", "en"] if KINDS[self.stage].code_switching else ["vi"]
        self.evaluations = [Evaluation(**e) if isinstance(e, Mapping) else e for e in self.evaluations]


def markdown_escape(text: Any) -> str:
    """Text that Markdown, HTML and tables show literally, on one line."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)


def code_escape(text: Any) -> str:
    """Text that fits between single backticks, also inside a table."""
    return " ".join(str(text).split()).replace("`", "'").replace("|", "¦")


def write_model_card(folder: str | os.PathLike[str], *, stage: Kind | Literal["joint"], **facts: Any) -> Path:
    """Write README.md and card.json into a checkpoint folder.

    Args:
        folder: an existing folder. stage: a key of `KINDS`; "joint" means "tspc".
        facts: any field of `CardFacts`: repo_id, base_model, datasets, language, register, normalizer_version,
            licence, command, hardware, commit, training (see `TRAINING_FIELDS`), limitations and evaluations (a list
            of `Evaluation` or dicts; leave it out before anything was measured).

    Returns:
        The path of README.md.

    Raises:
        ValueError: an unknown stage, field, metric or training key; the message lists what is allowed.
        FileNotFoundError: there is no such folder.
    """
    target = Path(folder)
    if not target.is_dir():
        raise FileNotFoundError(f"{target} is not a folder; save the model there before writing its card")
    allowed = [each.name for each in fields(CardFacts)]
    unknown = sorted(set(facts) - set(allowed))
    if unknown:
        raise ValueError(f"a card has no field {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    kind: Any = "tspc" if stage == "joint" else stage
    card_facts = _public(CardFacts(stage=kind, **{key: value for key, value in facts.items() if value is not None}))
    _write(target / FACTS_FILE, json.dumps(asdict(card_facts), ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    _write(target / "README.md", str(ModelCard(render_card(card_facts))))
    return target / "README.md"


def update_model_card(folder: str | os.PathLike[str], **changes: Any) -> Path:
    """Change some facts of a card and write it again; `evaluations` are added, one a system and test set.

    Raises:
        FileNotFoundError: the folder has no card.json (it was not written by `write_model_card`).
        ValueError: as `write_model_card`.
    """
    facts = read_card_facts(folder)
    known = {_system(e): e for e in facts.evaluations}
    for each in changes.pop("evaluations", []):
        new = _public_evaluation(Evaluation(**each) if isinstance(each, Mapping) else each)
        known[_system(new)] = new
    merged: dict[str, Any] = {each.name: getattr(facts, each.name) for each in fields(facts)} | changes
    merged["evaluations"] = list(known.values())
    return write_model_card(folder, **merged)


def _system(evaluation: Evaluation) -> tuple[Any, ...]:
    return evaluation.model, evaluation.dataset, evaluation.split, evaluation.num_beams, evaluation.variant


def read_card_facts(folder: str | os.PathLike[str]) -> CardFacts:
    """The facts of a folder's card; errors as `update_model_card`."""
    path = Path(folder) / FACTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: write the card with trainers.card.write_model_card first")
    return CardFacts(**json.loads(path.read_text(encoding="utf-8")))


def render_card(facts: CardFacts) -> str:
    """The whole README.md: YAML metadata with model-index, then the Markdown body."""
    import jinja2

    rows = [_table_row(evaluation, facts) for evaluation in facts.evaluations]
    columns = [name for name in LABELS if any(name in row["cells"] for row in rows)]
    for row in rows:
        row["cells"] = {name: row["cells"].get(name, "") for name in columns}
    notes = [NOTES[name] for name in columns if name in NOTES and (name != "per_vmd" or "per_full" not in columns)]
    versions = sorted({e.normalizer_version for e in facts.evaluations if e.normalizer_version})
    if versions:
        notes.append(f"Both sides pass through text normaliser version {', '.join(map(markdown_escape, versions))}.")
    loader, undefined = jinja2.FileSystemLoader(TEMPLATE.parent), jinja2.StrictUndefined
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=undefined)
    environment.filters |= {"md": markdown_escape, "code": code_escape}
    body = environment.get_template(TEMPLATE.name).render(
        stage=facts.stage,
        title=(facts.repo_id or f"Amvi {_stage_name(facts.stage)}").split("/")[-1],
        summary=KINDS[facts.stage].summary,
        kind=KINDS[facts.stage],
        classifies=KINDS[facts.stage].task == "audio-classification",
        repo_id=facts.repo_id or UNNAMED_REPO,
        register=code_escape(facts.register),
        example_phonemes="s i -0 nz t͡ɕ aː -1 uz" if facts.register == "full" else "s i -0 nz",
        rows=rows,
        columns=columns,
        labels=LABELS,
        notes=notes,
        confidence=f"{100 * max((e.confidence for e in facts.evaluations), default=0.95):g}",
        eval_commands=sorted({e.command for e in facts.evaluations if e.command}),
        facts=_training_lines(facts),
        command=facts.command,
        limitations=facts.limitations,
        commit=facts.commit,
    )
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return f"---\n{_metadata(facts).to_yaml()}\n---\n\n{body}\n"


def describe_hardware() -> str:
    """For example "1 × NVIDIA H100 80GB HBM3" or "CPU, 2 cores"; never a host name."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}"
    return f"CPU, {os.cpu_count()} cores"


@cache
def source_commit() -> str | None:
    """Short hash of the checked-out commit of this code, None outside of a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _public(facts: CardFacts) -> CardFacts:
    return CardFacts(
        stage=facts.stage,
        repo_id=facts.repo_id,
        base_model=[public_name(name) for name in _listed(facts.base_model)],
        datasets=[public_name(name) for name in _listed(facts.datasets)],
        language=_listed(facts.language),
        register=facts.register,
        normalizer_version=facts.normalizer_version,
        spoken_form_version=facts.spoken_form_version,
        licence=facts.licence,
        command=public_command(facts.command) if facts.command else None,
        hardware=mask_tokens(facts.hardware) if facts.hardware else None,
        commit=facts.commit,
        training={key: mask_tokens(v) if isinstance(v, str) else v for key, v in facts.training.items()},
        limitations=[mask_tokens(line) for line in facts.limitations],
        evaluations=[_public_evaluation(evaluation) for evaluation in facts.evaluations],
    )


def _public_evaluation(evaluation: Evaluation) -> Evaluation:
    kept = {
        name: {key: metric[key] for key in ("value", "low", "high") if key in metric}
        if isinstance(metric, Mapping)
        else {"value": metric}
        for name, metric in evaluation.metrics.items()
    }
    changes: dict[str, Any] = {"metrics": kept, "dataset": public_name(evaluation.dataset)}
    changes["model"] = public_name(evaluation.model) if evaluation.model else None
    changes["command"] = public_command(evaluation.command) if evaluation.command else None
    return Evaluation(**{each.name: getattr(evaluation, each.name) for each in fields(evaluation)} | changes)


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(dict.fromkeys(value))


def _table_row(evaluation: Evaluation, facts: CardFacts) -> dict[str, Any]:
    cells = {}
    for name, metric in evaluation.metrics.items():
        cells[name] = f"{100 * metric['value']:.2f}"
        if "low" in metric:
            cells[name] += f" [{100 * metric['low']:.2f}, {100 * metric['high']:.2f}]"
    row = {key: getattr(evaluation, key) for key in ("dataset", "split", "num_beams", "variant", "num_utterances")}
    return row | {"model": f"baseline {evaluation.model}" if evaluation.model else "this model", "cells": cells}


def _training_lines(facts: CardFacts) -> list[tuple[str, str]]:
    lines: list[tuple[str, Any]] = [
        ("Base model", ", ".join(facts.base_model)),
        ("Data", ", ".join(facts.datasets)),
        ("Phoneme register", facts.register if KINDS[facts.stage].phonemes else None),
        ("Text normaliser version", facts.normalizer_version),
        ("Spoken form version", facts.spoken_form_version),
        *((key.replace("_", " ").capitalize(), value) for key, value in facts.training.items()),
        ("Hardware", facts.hardware),
    ]
    return [(name, markdown_escape(_told(value))) for name, value in lines if value not in (None, "")]


def _stage_name(stage: str) -> str:
    return stage.upper() if len(stage) <= len("tspc") else stage.capitalize()


def _told(value: Any) -> str:
    """A list or mapping in words: "neutral: neutral, calm; negative: sad"; numbers with four digits."""
    if isinstance(value, float) and abs(value) < 1e4:
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_told(each)}" for key, each in value.items())
    return ", ".join(map(_told, value)) if isinstance(value, list | tuple) else str(value)


def _tags(facts: CardFacts) -> list[str]:
    if KINDS[facts.stage].task == "audio-classification":
        return ["amvi", facts.stage, "speech-emotion-recognition", *(["vietnamese"] if "vi" in facts.language else [])]
    return ["amvi", facts.stage, *(["code-switching"] if KINDS[facts.stage].code_switching else []), "vietnamese"]


def _metadata(facts: CardFacts) -> ModelCardData:
    kind = KINDS[facts.stage]
    # The Hub has no widget for what turns phonemes into text.
    task = None if kind.task == "text2text-generation" else kind.task
    results = [
        EvalResult(
            task_type=kind.task,
            dataset_type=evaluation.dataset,
            dataset_name=evaluation.dataset,
            dataset_split=evaluation.split,
            metric_type=_HUB_METRICS.get(name, name.split("_")[0]),
            metric_name=f"{LABELS[name]} (%)"
            + (f", {evaluation.num_beams} beams" if evaluation.num_beams else "")
            + (f", {evaluation.variant}" if evaluation.variant else ""),
            metric_value=round(100 * metric["value"], 2),
            metric_args={
                **{key: round(100 * metric[key], 2) for key in ("low", "high") if key in metric},
                **({"confidence": evaluation.confidence} if "low" in metric else {}),
                **({"normalizer_version": evaluation.normalizer_version} if evaluation.normalizer_version else {}),
                **({"spoken_form_version": evaluation.spoken_form_version} if evaluation.spoken_form_version else {}),
            }
            or None,
        )
        for evaluation in facts.evaluations
        if evaluation.model is None
        for name, metric in evaluation.metrics.items()
    ]
    return ModelCardData(
        language=list(facts.language) or None,
        license=facts.licence,
        library_name="transformers",
        pipeline_tag=task,
        base_model=[name for name in facts.base_model if "/" in name] or None,
        datasets=[name for name in facts.datasets if "/" in name] or None,
        metrics=sorted({_HUB_METRICS.get(n, n) for e in facts.evaluations for n in e.metrics} & _HUB_KNOWS) or None,
        tags=_tags(facts),
        model_name=(facts.repo_id or f"amvi-{facts.stage}").split("/")[-1] if results else None,
        eval_results=results or None,
    )
