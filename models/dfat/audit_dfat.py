"""Classifier files that could do harm are refused before anything in them is built.

scikit-learn's classifiers are stored by skops, which builds what a file names: here only the types of `SKOPS_TYPES`,
each by its own loader. Trees are arrays of indices that scikit-learn and XGBoost follow without looking, so that a
forged one could read any memory: every index is checked first.
"""

import io
import json
import zipfile
from importlib import import_module
from typing import Any

import numpy as np

from .strict_model import CheckpointError

# (module, class, loader): what logistic regression and forests are made of, and nothing else.
SKOPS_TYPES = {
    ("builtins", "dict", "DictNode"),
    ("builtins", "list", "ListNode"),
    ("builtins", "str", "JsonNode"),
    ("builtins", "str", "TypeNode"),
    ("builtins", "tuple", "TupleNode"),
    ("numpy", "float64", "NdArrayNode"),
    ("numpy", "int64", "NdArrayNode"),
    ("numpy", "ndarray", "NdArrayNode"),
    ("sklearn.ensemble._forest", "RandomForestClassifier", "ObjectNode"),
    ("sklearn.linear_model._logistic", "LogisticRegression", "ObjectNode"),
    ("sklearn.pipeline", "Pipeline", "ObjectNode"),
    ("sklearn.preprocessing._data", "StandardScaler", "ObjectNode"),
    ("sklearn.tree._classes", "DecisionTreeClassifier", "ObjectNode"),
    ("sklearn.tree._tree", "Tree", "TreeNode"),
}
ROOTS = {"lr": "Pipeline", "rf": "RandomForestClassifier"}
# skops trusts all others by itself.
TRUSTED = ["sklearn.tree._tree.Tree"]
LARGEST_BYTES = 4 << 30
INSTALL = "pip install 'scikit-learn>=1.7' 'skops>=0.13' 'xgboost>=3.1' (xgboost-cpu where there is no GPU)"


def optional(name: str) -> Any:
    """A package that only these classifiers need.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        # Not `import`: transformers would demand the package of whoever loads any model of this kind.
        return import_module(name)
    except ImportError as error:
        raise CheckpointError(f"the classifiers of DFAT need {name.split('.')[0]} ({error}): {INSTALL}") from error


def load_skops(data: bytes, kind: str, name: str, num_features: int, num_classes: int) -> Any:
    """What a `.skops` file holds, once it is known to be harmless.

    Raises:
        CheckpointError: no such file, a type that is not allowed, or contents that do not fit (named).
    """
    skops = optional("skops.io")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_BYTES:
                raise CheckpointError(f"{name}: unpacks to more than {LARGEST_BYTES >> 30} GiB, which no forest needs")
            schema = json.loads(archive.read("schema.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise CheckpointError(f"{name}: not a skops file ({error}); copy or download it again") from error
    refuse_types(schema, name)
    try:
        fitted = skops.loads(data, trusted=TRUSTED)
    except Exception as error:  # skops, numpy and scikit-learn each have their own
        raise CheckpointError(
            f"{name}: damaged, or made by a version of scikit-learn that yours cannot read, see fitted_with in "
            f"digests.json ({error})"
        ) from error
    if type(fitted).__name__ != ROOTS[kind]:
        raise CheckpointError(f"{name}: holds a {type(fitted).__name__}; it must hold a {ROOTS[kind]}")
    try:
        if kind == "rf":
            check_forest(fitted, num_features, num_classes)
        check_fitted(fitted, num_features, num_classes)
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise CheckpointError(f"{name}: {error}; it is damaged, or of another model") from error
    return fitted


def refuse_types(schema: Any, name: str) -> None:
    """Raise CheckpointError for the first type of a skops schema that is not of `SKOPS_TYPES`."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if "__class__" in node or "__loader__" in node or "__module__" in node:
                found = tuple(str(node.get(key)) for key in ("__module__", "__class__", "__loader__"))
                if found not in SKOPS_TYPES:
                    raise CheckpointError(
                        f"{name}: holds a {found[0]}.{found[1]} ({found[2]}), which no classifier of DFAT is made of; "
                        "nothing of it was built"
                    )
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def check_forest(forest: Any, num_features: int, num_classes: int) -> None:
    """Raise ValueError where an index of a tree leads out of its arrays."""
    tree_class = optional("sklearn.tree._tree").Tree
    if not forest.estimators_ or len(forest.classes_) > num_classes:
        raise ValueError(f"a forest of {len(forest.estimators_)} trees and {len(forest.classes_)} classes")
    for estimator in forest.estimators_:
        tree = estimator.tree_
        if type(tree) is not tree_class:
            raise ValueError(f"a tree is a {type(tree).__name__}")
        values = tree.value
        if tree.n_outputs != 1 or tree.max_n_classes != len(forest.classes_):
            raise ValueError("a tree knows other classes than its forest")
        if values.shape != (tree.node_count, 1, len(forest.classes_)):
            raise ValueError(f"a tree of {tree.node_count} nodes has values of shape {values.shape}")
        check_nodes(tree.children_left, tree.children_right, tree.feature, num_features)


def check_nodes(left: Any, right: Any, feature: Any, num_features: int) -> None:
    """Raise ValueError unless children lie behind their parents and inside the tree, and features are there."""
    left, right, feature = (np.asarray(values, dtype=np.int64) for values in (left, right, feature))
    count = len(left)
    if not count or not len(right) == len(feature) == count:
        raise ValueError(f"a tree with {count} left children, {len(right)} right ones and {len(feature)} features")
    inner = left != -1
    if ((right != -1) != inner).any():
        raise ValueError("a node of a tree has one child")
    parents = np.arange(count)[inner]
    for children in (left[inner], right[inner]):
        if ((children <= parents) | (children >= count)).any():
            raise ValueError("a node of a tree has a child that is not in the tree")
    if ((feature[inner] < 0) | (feature[inner] >= num_features)).any():
        raise ValueError(f"a tree asks for a feature that is not among {num_features}")


def check_fitted(fitted: Any, num_features: int, num_classes: int) -> None:
    """Raise ValueError unless a scikit-learn classifier takes the features and gives probabilities of the classes."""
    classes = np.asarray(fitted.classes_)
    known = classes.dtype.kind in "iu" and len(set(classes.tolist())) == len(classes)
    if not known or classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(f"classes {classes.tolist()} of a model that has {num_classes}")
    scores = fitted.predict_proba(np.zeros((1, num_features)))
    if scores.shape != (1, len(classes)) or not np.isfinite(scores).all():
        raise ValueError(f"probabilities of shape {scores.shape} for {len(classes)} classes")


def load_xgboost(data: bytes, name: str, num_features: int, num_classes: int) -> Any:
    """The booster of an XGBoost JSON file, once its trees are known to stay within their arrays.

    Raises:
        CheckpointError: no such file, or contents that do not fit (named).
    """
    xgboost = optional("xgboost")
    try:
        learner = json.loads(data)["learner"]
        objective = learner["objective"]["name"]
        booster_kind = learner["gradient_booster"]["name"]
        if (objective, booster_kind) != ("multi:softprob", "gbtree"):
            raise ValueError(f"objective {objective!r} of a {booster_kind!r}; it must be multi:softprob of a gbtree")
        shape = {key: int(learner["learner_model_param"][key]) for key in ("num_class", "num_feature", "num_target")}
        if shape != {"num_class": num_classes, "num_feature": num_features, "num_target": 1}:
            raise ValueError(f"{shape}, but the model has {num_classes} classes and {num_features} features")
        model = learner["gradient_booster"]["model"]
        trees, groups = model["trees"], model["tree_info"]
        if len(trees) != len(groups) or not set(groups) <= set(range(num_classes)):
            raise ValueError(f"{len(trees)} trees of the classes {sorted(set(groups))}")
        for tree in trees:
            check_nodes(tree["left_children"], tree["right_children"], tree["split_indices"], num_features)
            check_tree_arrays(tree)
        booster = xgboost.Booster()
        booster.load_model(bytearray(data))
        return booster
    except (ValueError, KeyError, TypeError, AttributeError, xgboost.core.XGBoostError) as error:
        raise CheckpointError(f"{name}: {error}; it is damaged, or of another model") from error


def check_tree_arrays(tree: dict[str, Any]) -> None:
    count = len(tree["left_children"])
    for key in ("split_conditions", "split_indices", "split_type", "default_left", "base_weights", "parents"):
        if len(tree[key]) != count:
            raise ValueError(f"a tree of {count} nodes has {len(tree[key])} {key}")
    if any(tree["split_type"]) or any(len(tree[key]) for key in tree if key.startswith("categories")):
        raise ValueError("a tree splits by categories, of which the features have none")
