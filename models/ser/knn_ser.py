"""k-NN interpolation (paper, section 3.2): p = beta * p_model + (1 - beta) * p_kNN over training embeddings.

The datastore lies in the model's folder as `knn.safetensors` (keys and labels) and `knn.json` (settings and digests).
It belongs to the weights that made its keys: with any others it is refused.

Shape legend: B queries, M keys, E width of the embeddings, C classes, K neighbours.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .strict_model import CheckpointError

logger = logging.getLogger(__name__)

TENSORS_FILE, SETTINGS_FILE = "knn.safetensors", "knn.json"
WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# Above this many keys an index of faiss searches, where it is installed; its search is exact as well.
FAISS_FROM = 1_000_000
# Keys compared at once, so that distances to a million keys need no memory of their own size.
CHUNK = 65_536
BETAS = tuple(step / 10 for step in range(11))
NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64)
# Times the median distance to the nearest neighbour.
TEMPERATURES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass
class KNNDatastore:
    """Embeddings of labelled utterances.

    Args:
        keys_ME: float32.
        labels_M: class ids.
        label_names: the classes, in the order of their ids.
        beta: weight of the model, in [0, 1]; 1 leaves the neighbours out.
        k: neighbours; never more than there are keys.
        temperature: T in softmax(-distance / T); distances are Euclidean.

    Raises:
        ValueError: sizes that do not fit each other, labels without a class, keys that are not finite.
    """

    keys_ME: torch.Tensor
    labels_M: torch.Tensor
    label_names: Sequence[str]
    beta: float = 0.5
    k: int = 8
    temperature: float = 1.0
    _index: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.keys_ME, self.labels_M = self.keys_ME.detach().float(), self.labels_M.detach().long()
        self.label_names = [str(name) for name in self.label_names]
        if self.keys_ME.ndim != 2 or not len(self.keys_ME) or self.labels_M.shape != self.keys_ME.shape[:1]:
            raise ValueError(
                f"k-NN datastore: keys of shape {tuple(self.keys_ME.shape)} and labels of shape "
                f"{tuple(self.labels_M.shape)}; give (M, E) and (M,) with at least one key"
            )
        if not 0 <= int(self.labels_M.min()) <= int(self.labels_M.max()) < len(self.label_names):
            raise ValueError(
                f"k-NN datastore: labels from {int(self.labels_M.min())} to {int(self.labels_M.max())}, but the "
                f"classes are 0 to {len(self.label_names) - 1} ({', '.join(self.label_names)})"
            )
        if not bool(self.keys_ME.isfinite().all()):
            raise ValueError("k-NN datastore: keys that are NaN or infinite")
        if not 0 <= self.beta <= 1 or not self.temperature > 0 or self.k < 1:
            raise ValueError(
                f"k-NN datastore: beta {self.beta}, k {self.k}, temperature {self.temperature}; beta must be in "
                "[0, 1], k at least 1, temperature positive"
            )

    def neighbours(self, queries_BE: torch.Tensor, k: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances and labels of the nearest keys, (B, K) each, nearest first; among equals the first key wins.

        Raises:
            ValueError: queries of another width.
        """
        if queries_BE.ndim != 2 or queries_BE.shape[1] != self.keys_ME.shape[1]:
            raise ValueError(
                f"k-NN datastore: queries of shape {tuple(queries_BE.shape)}, but the keys are "
                f"{self.keys_ME.shape[1]} wide: they come from another model"
            )
        k = min(self.k if k is None else k, len(self.keys_ME))
        queries_BE = queries_BE.detach().float()
        faiss = self._faiss() if len(self.keys_ME) > FAISS_FROM else None
        if faiss is not None:
            index_BK = torch.from_numpy(faiss.search(queries_BE.cpu().numpy(), k)[1]).to(queries_BE.device)
            near_BKE = self.keys_ME[index_BK.to(self.keys_ME.device)].to(queries_BE.device)
            distance_BK = (near_BKE - queries_BE[:, None]).square().sum(2).sqrt()
        else:
            self.keys_ME = self.keys_ME.to(queries_BE.device)  # moved once
            distance_BK, index_BK = nearest(queries_BE, self.keys_ME, k)
        order_BK = torch.argsort(distance_BK, dim=1, stable=True)
        labels_BK = self.labels_M.to(queries_BE.device)[index_BK.gather(1, order_BK)]
        return distance_BK.gather(1, order_BK), labels_BK

    def probabilities(self, queries_BE: torch.Tensor) -> torch.Tensor:
        """(B, E) embeddings -> (B, C) class probabilities of their neighbours."""
        return vote(*self.neighbours(queries_BE), len(self.label_names), self.temperature)

    def interpolate(self, model_BC: torch.Tensor, queries_BE: torch.Tensor) -> torch.Tensor:
        """beta * `model_BC` + (1 - beta) * the neighbours' probabilities."""
        if self.beta == 1:
            return model_BC
        return self.beta * model_BC + (1 - self.beta) * self.probabilities(queries_BE).to(model_BC.dtype)

    def tune(
        self,
        embeddings_BE: torch.Tensor,
        logits_BC: torch.Tensor,
        labels_B: torch.Tensor,
        *,
        betas: Sequence[float] = BETAS,
        neighbours: Sequence[int] = NEIGHBOURS,
        temperatures: Sequence[float] | None = None,
        batch_size: int = 256,
    ) -> dict[str, float]:
        """Choose beta, k and temperature on validation data, and keep them: the best unweighted average recall of the
        classes that occur there, then the larger beta, then the lowest negative log likelihood, then the smaller k.

        So neighbours that make no label better are left out (beta 1), however sure they are.

        Args:
            embeddings_BE, logits_BC, labels_B: of the validation utterances, none of which may be in the datastore.
            temperatures: default `TEMPERATURES` times the median distance to the nearest neighbour.

        Returns:
            `beta`, `k`, `temperature`, `uar` and `nll` of the choice, and `uar_model` without neighbours.

        Raises:
            ValueError: no utterances, or other numbers of embeddings, logits and labels.
        """
        if not len(labels_B) or not len(embeddings_BE) == len(logits_BC) == len(labels_B):
            raise ValueError(
                f"k-NN tuning: {len(embeddings_BE)} embeddings, {len(logits_BC)} logits and {len(labels_B)} labels; "
                "give as many of each, not none"
            )
        most = min(max(neighbours), len(self.keys_ME))
        found = [self.neighbours(part, most) for part in embeddings_BE.split(batch_size)]
        distance_BK, near_labels_BK = (torch.cat(parts) for parts in zip(*found, strict=True))
        if temperatures is None:
            unit = float(distance_BK[:, 0].median()) or 1.0
            temperatures = [unit * factor for factor in TEMPERATURES]
        model_BC, labels_B = logits_BC.float().softmax(1), labels_B.to(logits_BC.device)
        without = scores(model_BC, labels_B)
        best, choice = None, (1.0, min(neighbours), temperatures[0])
        for k in sorted({min(k, most) for k in neighbours}):
            for temperature in temperatures:
                near_BC = vote(distance_BK[:, :k], near_labels_BK[:, :k], len(self.label_names), temperature)
                for beta in betas:
                    uar, nll = scores(beta * model_BC + (1 - beta) * near_BC.to(model_BC), labels_B)
                    rank = (uar, beta, -nll, -k)
                    if best is None or rank > best:
                        best, choice = rank, (beta, k, temperature)
        self.beta, self.k, self.temperature = float(choice[0]), int(choice[1]), float(choice[2])
        uar, nll = (best[0], -best[2]) if best is not None else without
        settings = {"beta": self.beta, "k": self.k, "temperature": self.temperature}
        return {**settings, "uar": uar, "nll": nll, "uar_model": without[0]}

    def save(self, folder: str | os.PathLike, weights_digest: str) -> None:
        """Write both files; the settings last, so that a broken write leaves no datastore that would be read."""
        from safetensors.torch import save_file

        folder = Path(folder)
        (folder / SETTINGS_FILE).unlink(missing_ok=True)
        tensors = {"keys": self.keys_ME.cpu().contiguous(), "labels": self.labels_M.cpu().contiguous()}
        save_file(tensors, folder / TENSORS_FILE, metadata={"format": "pt"})
        settings = {
            "beta": self.beta,
            "k": self.k,
            "temperature": self.temperature,
            "num_keys": len(self.keys_ME),
            "embedding_size": self.keys_ME.shape[1],
            "label_names": self.label_names,
            "datastore_sha256": file_digest([folder / TENSORS_FILE]),
            "weights_sha256": weights_digest,
        }
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(
        cls,
        settings_file: str | os.PathLike,
        tensors_file: str | os.PathLike | None,
        *,
        embedding_size: int,
        label_names: Sequence[str],
        weights_digest: Callable[[], str],
    ) -> "KNNDatastore":
        """Read what `save` wrote.

        Raises:
            CheckpointError: a file missing or damaged, or a datastore of other weights, classes or embeddings.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        advice = "build the datastore again, or load with knn=False"
        try:
            settings = json.loads(Path(settings_file).read_text("utf-8"))
            if tensors_file is None:
                raise CheckpointError(f"{settings_file}: {TENSORS_FILE} is missing beside it; {advice}")
            expected = {
                "datastore_sha256": file_digest([Path(tensors_file)]),
                "weights_sha256": weights_digest(),
                "embedding_size": embedding_size,
                "label_names": list(label_names),
            }
            for key, value in expected.items():
                if settings[key] != value:
                    raise CheckpointError(
                        f"{settings_file}: {key} is {settings[key]}, but that of the model's folder is {value}: the "
                        f"datastore was made by another model or has been changed; {advice}"
                    )
            tensors = load_file(tensors_file)
            if tuple(tensors["keys"].shape) != (settings["num_keys"], embedding_size):
                raise CheckpointError(f"{tensors_file}: keys of shape {tuple(tensors['keys'].shape)}; {advice}")
            options = {key: settings[key] for key in ("beta", "k", "temperature")}
            return cls(tensors["keys"], tensors["labels"], label_names, **options)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{settings_file}: the k-NN datastore is damaged ({error}); {advice}") from error

    def _faiss(self) -> Any:
        """An exact index of all keys, or None without faiss."""
        if self._index is None:
            try:
                # Not `import`: transformers would demand faiss of whoever loads the model.
                self._index = import_module("faiss").IndexFlatL2(self.keys_ME.shape[1])
            except ImportError:
                logger.warning(
                    "%d keys are searched one chunk after another; `pip install faiss-cpu` makes it faster",
                    len(self.keys_ME),
                )
                self._index = False
            else:
                self._index.add(self.keys_ME.cpu().numpy())
        return self._index or None


def nearest(queries_BE: torch.Tensor, keys_ME: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Euclidean distances and indices of the k nearest keys, (B, k) each, in the order of the keys.

    Distances are computed directly, not from dot products, so that they are exact near zero and do not depend on the
    batch; among equal distances the first keys are taken, on any device.
    """
    best_BX = queries_BE.new_zeros(len(queries_BE), 0)
    index_BX = torch.zeros(len(queries_BE), 0, dtype=torch.long, device=queries_BE.device)
    for start in range(0, len(keys_ME), CHUNK):
        part_XE = keys_ME[start : start + CHUNK]
        distance_BX = torch.cdist(queries_BE, part_XE, compute_mode="donot_use_mm_for_euclid_dist")
        place_X = torch.arange(start, start + len(part_XE), device=queries_BE.device)
        best_BX = torch.cat([best_BX, distance_BX], dim=1)
        index_BX = torch.cat([index_BX, place_X.expand(len(queries_BE), -1)], dim=1)
        if best_BX.shape[1] > k:
            limit_B1 = best_BX.kthvalue(k, dim=1, keepdim=True).values
            closer_BX, equal_BX = best_BX < limit_B1, best_BX == limit_B1
            room_B1 = k - closer_BX.sum(1, keepdim=True)
            kept_BX = closer_BX | (equal_BX & (equal_BX.cumsum(1) <= room_B1))
            best_BX, index_BX = best_BX[kept_BX].view(-1, k), index_BX[kept_BX].view(-1, k)
    return best_BX, index_BX


def vote(distance_BK: torch.Tensor, labels_BK: torch.Tensor, num_classes: int, temperature: float) -> torch.Tensor:
    """softmax(-distance / T) over the neighbours, added up by class: (B, C)."""
    weights_BK = (-distance_BK / temperature).softmax(1)
    return weights_BK.new_zeros(len(weights_BK), num_classes).scatter_add_(1, labels_BK, weights_BK)


def scores(probabilities_BC: torch.Tensor, labels_B: torch.Tensor) -> tuple[float, float]:
    """Unweighted average recall over the classes that occur, and negative log likelihood."""
    right_B = probabilities_BC.argmax(1) == labels_B
    recalls = [float(right_B[labels_B == label].float().mean()) for label in labels_B.unique()]
    likelihood_B = probabilities_BC.gather(1, labels_B[:, None]).clamp(min=1e-12)
    return sum(recalls) / len(recalls), float(-likelihood_B.log().mean())


def file_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            yield block


def find_in(folder: Path, name: str) -> str | None:
    """The path of a file of a folder, or None."""
    return str(folder / name) if (folder / name).is_file() else None


def weights_digest(find: Callable[[str], str | None]) -> str:
    """SHA-256 of a model's weight files, given what finds a file of the model by its name.

    Raises:
        CheckpointError: no weights, or not all of their parts.
    """
    whole, index = find(WEIGHTS_FILE), None
    if whole is None:
        index = find(WEIGHTS_INDEX)
    shards = [] if index is None else sorted(set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values()))
    paths = [whole] if whole is not None else [find(shard) for shard in shards]
    if not paths or None in paths:
        raise CheckpointError(f"the k-NN datastore needs {WEIGHTS_FILE}, or all files of {WEIGHTS_INDEX}, beside it")
    return file_digest([Path(path) for path in paths if path is not None])
