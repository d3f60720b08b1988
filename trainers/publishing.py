"""Send a finished model folder to the Hugging Face Hub: complete, and nothing else.

The token comes from `hf auth login` or HF_TOKEN, never from an argument or a config, and no message repeats it.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from .card import update_model_card
from .checkpoint_folder import Problem, check_folder, files_to_publish
from .secrets import mask_tokens

__all__ = [
    "IncompleteFolder",
    "PublishError",
    "check_folder",
    "check_rights",
    "files_to_publish",
    "merge_adapters",
    "publish",
]

logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_TEACH = {
    401: "the Hub does not accept the token; log in again with `hf auth login` (a token that may write), or check "
    "HF_TOKEN",
    403: "the token may not write to {repo_id}; use your own user name or an organisation you belong to, and a token "
    "with the write role",
    404: "there is no {repo_id} that this token can see; check the spelling of the owner",
    409: "{repo_id} is being changed by someone else; try again",
    413: "a file is too large for the Hub; save the model in smaller shards (save_pretrained(max_shard_size='2GB'))",
}


class PublishError(RuntimeError):
    """The Hub refused or could not be reached; the message says what to do. The folder is unharmed: publish again."""


class IncompleteFolder(ValueError):
    """The folder would not load for a stranger; `problems` lists why."""

    def __init__(self, folder: Path, problems: list[Problem]):
        self.problems = problems
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{folder} is not a complete model, nothing was uploaded:{lines}")


def publish(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = True,
    commit_message: str = "Upload model",
    endpoint: str | None = None,
    deadline_s: float = 600.0,
) -> str:
    """Upload a complete model folder in one commit and check what arrived.

    Weights and code that an earlier commit left and this folder lacks are deleted in the same commit.

    Args:
        folder: a finished model; its card is rewritten with `repo_id` in the usage snippet.
        repo_id: "name" or "owner/name"; created if it does not exist.
        private: of a repository created here; one that exists keeps its visibility.
        endpoint: another Hub; the default is HF_ENDPOINT or huggingface.co.
        deadline_s: how long busy or failing answers (429, 5xx, lost connections) are retried.

    Returns:
        The address of the model.

    Raises:
        IncompleteFolder: something is missing or broken; nothing was uploaded.
        PublishError: no token, no permission, no connection or a failed check.
        FileNotFoundError: there is no such folder.
    """
    root = Path(folder)
    problems = check_folder(root)
    if problems:
        raise IncompleteFolder(root, problems)
    api, call, full_id = _reach(repo_id, private, endpoint, deadline_s)
    if (root / "card.json").is_file():
        update_model_card(root, repo_id=full_id)
    names = files_to_publish(root)
    before = call("list the repository", lambda: api.model_info(full_id))
    remote = [sibling.rfilename for sibling in before.siblings or []]
    stale = [name for name in remote if name not in names and _is_part_of_a_model(name)]
    logger.info("uploading %d files (%.1f MB) to %s", len(names), _megabytes(root, names), full_id)

    def upload() -> Any:
        # Operations remember what was uploaded, and a retry must not trust what a failed try left in them.
        operations: list[Any] = [CommitOperationAdd(name, root / name) for name in names]
        operations += [CommitOperationDelete(name) for name in stale]
        return api.create_commit(full_id, operations, commit_message=commit_message)

    commit = call("upload", upload)
    after = call("check the upload", lambda: api.model_info(full_id, revision=commit.oid, files_metadata=True))
    sizes = {sibling.rfilename: sibling.size for sibling in after.siblings or []}
    wrong = [name for name in names if sizes.get(name) != (root / name).stat().st_size]
    if wrong:
        raise PublishError(f"{full_id} does not hold what was sent ({', '.join(wrong)} differ in size); publish again")
    return f"{api.endpoint}/{full_id}"


def _is_part_of_a_model(name: str) -> bool:
    """Whether a file, left by an earlier version, would be loaded with this one."""
    return name.endswith((".safetensors", ".py", ".index.json")) or name.startswith(("knn.", "classifiers/"))


def check_rights(repo_id: str, *, private: bool = True, endpoint: str | None = None, deadline_s: float = 60.0) -> str:
    """Find out whether `publish` would be let in, without uploading: token, name, owner, right to write, visibility.

    Creates the repository if it does not exist.

    Returns:
        The full repository id, with its owner.

    Raises:
        PublishError: it would not; or the repository exists with the other visibility.
    """
    api, call, full_id = _reach(repo_id, private, endpoint, deadline_s)
    call("check the right to write", lambda: api.auth_check(full_id, write=True))
    found = call("look at the repository", lambda: api.model_info(full_id))
    if bool(found.private) != private:
        is_now, wanted = ("private", "public") if found.private else ("public", "private")
        raise PublishError(
            f"{full_id} exists and is {is_now}, but {wanted} was asked for: set publish.private to "
            f"{str(bool(found.private)).lower()}, change the repository's settings, or choose another publish.repo_id"
        )
    return full_id


def _reach(repo_id: str, private: bool, endpoint: str | None, deadline_s: float) -> tuple[HfApi, Any, str]:
    """A client, a way to call it with retries until the deadline, and the full id of the repository, which exists."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is no valid repository name: {error}") from None
    token = get_token()
    if not token:
        raise PublishError("no Hugging Face token: log in with `hf auth login`, or set HF_TOKEN, then publish again")
    api = HfApi(endpoint=endpoint, token=token)
    deadline = time.monotonic() + deadline_s

    def call(action: str, function: Callable[[], _Answer]) -> _Answer:
        return _with_retries(action, function, repo_id=repo_id, token=token, deadline=deadline)

    owner = call("check the token", api.whoami)["name"]
    full_id = repo_id if "/" in repo_id else f"{owner}/{repo_id}"
    call("create the repository", lambda: api.create_repo(full_id, private=private, exist_ok=True))
    return api, call, full_id


def merge_adapters(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> Path:
    """Load a folder of LoRA adapters onto its base model, merge them and save one plain model.

    Args:
        folder: with adapter_config.json, whose base_model_name_or_path is a folder or Hub id of TSPC, a Whisper or an
            emotion classifier.
        output: a new folder for the merged model; processor files and the card of `folder` are copied along.

    Raises:
        FileNotFoundError: `folder` holds no adapters. FileExistsError: `output` exists and is not empty.
        ValueError: the base model is of another kind.
    """
    import shutil

    from peft import PeftConfig, PeftModel
    from transformers import AutoConfig, WhisperForConditionalGeneration

    import models.emotion2vec as emotion2vec
    import models.ser as ser
    import models.tspc as tspc

    source, target = Path(folder), Path(output)
    if not (source / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{source / 'adapter_config.json'} is missing: this folder holds no LoRA adapters")
    if target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; name a new folder for the merged model")
    base = PeftConfig.from_pretrained(str(source)).base_model_name_or_path
    if not base:
        raise ValueError(
            f"{source / 'adapter_config.json'} names no base_model_name_or_path; set it to the base model"
        )
    classes = {
        "tspc_s2p": tspc.S2PForConditionalGeneration,
        "tspc_p2t": tspc.P2TForConditionalGeneration,
        "tspc": tspc.TSPCForConditionalGeneration,
        "whisper": WhisperForConditionalGeneration,
        "amvi_ser": ser.SERForAudioClassification,
        "emotion2vec": emotion2vec.Emotion2VecForAudioClassification,
    }
    kind = AutoConfig.from_pretrained(base, trust_remote_code=False).model_type
    if kind not in classes:
        raise ValueError(
            f"the base model {base} is a {kind!r} model; adapters can be merged into: {', '.join(classes)}"
        )
    model = PeftModel.from_pretrained(classes[kind].from_pretrained(base), str(source)).merge_and_unload()
    if getattr(model, "datastore", None) is not None:
        model.datastore = None  # its neighbours were embedded without the adapters
    model.save_pretrained(target)
    written = {path.name for path in target.iterdir()}
    candidates = [source, *([Path(base)] if Path(base).is_dir() else [])]
    for name in [*_PROCESSOR_FILES, "phoneme_tokenizer", "README.md", "card.json"]:
        origin = next((place / name for place in candidates if (place / name).exists()), None)
        if origin is None or name in written:
            continue
        if origin.is_dir():
            shutil.copytree(origin, target / name)
        else:
            shutil.copyfile(origin, target / name)
    return target


_PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "normalizer.json",
    "generation_config.json",
    "processing_tspc.py",
)


def _megabytes(root: Path, names: list[str]) -> float:
    return sum((root / name).stat().st_size for name in names) / 1e6


def _with_retries(
    action: str, function: Callable[[], _Answer], *, repo_id: str, token: str, deadline: float
) -> _Answer:
    wait_s = 1.0
    while True:
        try:
            return function()
        except OfflineModeIsEnabled:
            raise PublishError("HF_HUB_OFFLINE is set, so nothing can be published; unset it") from None
        except Exception as error:
            status = (
                error.response.status_code
                if isinstance(error, HfHubHTTPError) and error.response is not None
                else None
            )
            transient = status in _TRANSIENT or (status is None and _is_connection_error(error))
            detail = mask_tokens(str(error).replace(token, "hf_***")).strip().splitlines()[0:1]
            reason = detail[0] if detail else type(error).__name__
            if not transient:
                if status is None:
                    raise
                advice = _TEACH.get(status, "see the message of the Hub").format(repo_id=repo_id)
                raise PublishError(f"could not {action}: {advice} (HTTP {status}: {reason})") from None
            pause_s = max(wait_s, _retry_after_s(error))
            if time.monotonic() + pause_s > deadline:
                advice = "the Hub is busy or cannot be reached; publish again later, nothing is lost"
                raise PublishError(f"could not {action}: {advice} ({reason})") from None
            logger.warning("could not %s (%s); trying again in %.0f s", action, reason, pause_s)
            time.sleep(pause_s)
            wait_s = min(2 * wait_s, 60.0)


def _is_connection_error(error: Exception) -> bool:
    # The client's exceptions come from its HTTP library, which is no dependency of ours by name.
    names = {each.__name__ for each in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(names & {"TransportError", "RequestError"})


def _retry_after_s(error: Exception) -> float:
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return float(value) if value.isdigit() else 0.0
