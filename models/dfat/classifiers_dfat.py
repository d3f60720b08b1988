"""The classifiers of DFAT, and the files that they are kept in beside model.safetensors.

    classifiers/lr.skops       logistic regression behind a scaler
    classifiers/rf.skops       random forest
    classifiers/xgb.json       XGBoost, in its own format
    classifiers/digests.json   SHA-256 of each of them and of the weights that made their features

Nothing is parsed before its digest is known to be right; nothing is a pickle.

Shape legend: N clips, F features, C classes.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .audit_dfat import load_skops, load_xgboost, optional
from .strict_model import CheckpointError, short

FOLDER, DIGESTS_FILE = "classifiers", "digests.json"
WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
SUFFIXES = {"lr": "skops", "rf": "skops", "xgb": "json"}
ADVICE = "copy or download the whole folder again, or train it again"


@dataclass(frozen=True)
class Member:
    """One classifier of the ensemble: its kind (`lr`, `rf`, `xgb`) and the features that it reads."""

    classifier: str
    stream: str = "joint"

    @property
    def name(self) -> str:
        return self.classifier if self.stream == "joint" else f"{self.stream}_{self.classifier}"

    @property
    def file(self) -> str:
        return f"{self.name}.{SUFFIXES[self.classifier]}"


def predict(kind: str, fitted: Any, features_NF: np.ndarray, num_classes: int) -> np.ndarray:
    """(N, C) float64 probabilities of one classifier; a class that it never saw has 0."""
    if kind == "xgb":
        scores_NC = np.asarray(fitted.inplace_predict(np.ascontiguousarray(features_NF, np.float32)), np.float64)
        return scores_NC / scores_NC.sum(1, keepdims=True)
    probabilities_NC = np.zeros((len(features_NF), num_classes))
    probabilities_NC[:, fitted.classes_] = fitted.predict_proba(np.asarray(features_NF, np.float64))
    return probabilities_NC


@dataclass
class Classifiers:
    """Fitted members, by name, and the width of the features of each stream.

    Args:
        members: in the order of their weights.
        fitted: a scikit-learn Pipeline (scaler, logistic regression), a RandomForestClassifier or an xgboost Booster
            (multi:softprob) for each name.
        num_features: by stream, of those that members read.
        label_names: the classes, in the order of their ids.
    """

    members: Sequence[Member]
    fitted: Mapping[str, Any]
    num_features: Mapping[str, int]
    label_names: Sequence[str]

    def predict(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Features of each stream, (N, F) -> (members, N, C) float64 probabilities.

        Raises:
            ValueError: features of another width, or not finite.
        """
        for stream, width in self.num_features.items():
            if features[stream].ndim != 2 or features[stream].shape[1] != width:
                raise ValueError(f"{stream} features of shape {features[stream].shape}; the classifiers read {width}")
            if not np.isfinite(features[stream]).all():
                raise ValueError(f"{stream} features that are NaN or infinite: the audio or the weights are damaged")
        return np.stack([
            predict(member.classifier, self.fitted[member.name], features[member.stream], len(self.label_names))
            for member in self.members
        ])  # fmt: skip

    def save(self, folder: str | os.PathLike) -> None:
        """Write every file into `folder`/classifiers; `folder` already holds the weights. The digests come last."""
        folder = Path(folder)
        target = folder / FOLDER
        target.mkdir(exist_ok=True)
        for path in target.iterdir():
            path.unlink()
        digests = {}
        for member in self.members:
            data = to_bytes(member.classifier, self.fitted[member.name])
            (target / member.file).write_bytes(data)
            digests[member.file] = hashlib.sha256(data).hexdigest()
        about = {
            "weights_sha256": weights_digest(lambda name: str(folder / name) if (folder / name).is_file() else None),
            "label_names": list(self.label_names),
            "num_features": dict(self.num_features),
            "fitted_with": {name: metadata.version(name) for name in ("scikit-learn", "skops")},
            "files": digests,
        }
        (target / DIGESTS_FILE).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(
        cls,
        find: Callable[[str], str | None],
        source: str,
        *,
        members: Sequence[Member],
        num_features: Mapping[str, int],
        label_names: Sequence[str],
    ) -> "Classifiers":
        """Read what `save` wrote.

        Args:
            find: the path of a file of the model by its name, or None.
            source: how messages call the model.
            members, num_features, label_names: what the model's configuration says.

        Raises:
            CheckpointError: a file missing, too many, changed or unfit; nothing of a changed file is parsed.
        """
        about = read_digests(find(f"{FOLDER}/{DIGESTS_FILE}"), source)
        expected = {"label_names": list(label_names), "num_features": dict(num_features)}
        for key, value in expected.items():
            if about[key] != value:
                raise CheckpointError(
                    f"{source}: {FOLDER}/{DIGESTS_FILE} says {key} {about[key]}, but the model has {value}: the files "
                    f"belong to different models; {ADVICE}"
                )
        files = {member.file for member in members}
        lying = set(os.listdir(Path(str(find(f"{FOLDER}/{DIGESTS_FILE}"))).parent)) - {DIGESTS_FILE}
        for what, names in (("too many", (lying | set(about["files"])) - files), ("missing", files - lying)):
            # Of a Hub model only what was asked for lies there.
            wrong = {name for name in names if what == "too many" or find(f"{FOLDER}/{name}") is None}
            if wrong:
                raise CheckpointError(f"{source}: classifier files {what} in {FOLDER}: {short(wrong)}; {ADVICE}")
        contents = {name: Path(str(find(f"{FOLDER}/{name}"))).read_bytes() for name in sorted(files)}
        for name, data in contents.items():
            if hashlib.sha256(data).hexdigest() != about["files"].get(name):
                raise CheckpointError(f"{source}: {FOLDER}/{name} is not the file that was saved with it; {ADVICE}")
        if weights_digest(find) != about["weights_sha256"]:
            raise CheckpointError(
                f"{source}: {FOLDER} was fitted to features of other weights than {WEIGHTS_FILE} holds; {ADVICE}"
            )
        fitted = {}
        for member in members:
            name, width = f"{source}: {FOLDER}/{member.file}", num_features[member.stream]
            if member.classifier == "xgb":
                fitted[member.name] = load_xgboost(contents[member.file], name, width, len(label_names))
            else:
                data = contents[member.file]
                fitted[member.name] = load_skops(data, member.classifier, name, width, len(label_names))
        return cls(members, fitted, num_features, label_names)


def to_bytes(kind: str, fitted: Any) -> bytes:
    """A fitted classifier as its file."""
    if kind == "xgb":
        return bytes(fitted.save_raw("json"))
    return optional("skops.io").dumps(fitted, compression=zipfile.ZIP_DEFLATED)


def read_digests(path: str | None, source: str) -> dict[str, Any]:
    """The contents of digests.json, of the right types."""
    if path is None:
        raise CheckpointError(f"{source}: {FOLDER}/{DIGESTS_FILE} is missing; {ADVICE}")
    kinds = {"weights_sha256": str, "label_names": list, "num_features": dict, "files": dict}
    try:
        about = json.loads(Path(path).read_text("utf-8"))
        right = isinstance(about, dict) and all(isinstance(about.get(key), kind) for key, kind in kinds.items())
    except (OSError, ValueError):
        right = False
    if not right:
        raise CheckpointError(f"{source}: {FOLDER}/{DIGESTS_FILE} is damaged; {ADVICE}")
    return about


def weights_digest(find: Callable[[str], str | None]) -> str:
    """SHA-256 of the weight files of a model, one after another.

    Raises:
        CheckpointError: there are none, or not all of their parts.
    """
    paths = [find(WEIGHTS_FILE)]
    if paths == [None] and (index := find(WEIGHTS_INDEX)) is not None:
        paths = [find(name) for name in sorted(set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values()))]
    if None in paths:
        raise CheckpointError(f"{WEIGHTS_FILE}, or all files of {WEIGHTS_INDEX}, must lie beside {FOLDER}")
    digest = hashlib.sha256()
    for path in paths:
        with open(str(path), "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
