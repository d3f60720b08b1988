"""What a run needs of the machine, checked one by one; `scripts/doctor.py` prints it.

Each check is a function that yields `(state, what, mend)`; states are "ok", "note" and "FAIL". Nothing here imports
the packages it looks at before it has a way to say that they are broken.
"""

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

OK, NOTE, FAIL = "ok", "note", "FAIL"
Finding = tuple[str, str, str]

PAIR = "torch and torchaudio must be of one release and build: pip install torch==2.11.0 torchaudio==2.11.0"
ALL = "pip install -r requirements.txt"
REPOSITORY = "run from the repository: pip install -e ."
NEEDED = {
    "torch": PAIR,
    "torchaudio": PAIR,
    "transformers": f"{ALL}  (a broken torchaudio breaks it, too)",
    "datasets": ALL,
    "huggingface_hub": ALL,
    "accelerate": ALL,
    "peft": ALL,
    "evaluate": ALL,
    "deepspeed": f"{ALL}  (needs no compiler to install)",
    "safetensors": ALL,
    "sklearn": f"{ALL}  (DFAT, and the tests)",
    "xgboost": "pip install xgboost-cpu, or xgboost where there is no wheel of it  (DFAT)",
    "optuna": f"{ALL}  (DFAT)",
    "skops": f"{ALL}  (DFAT)",
    "soundfile": "pip install soundfile  (and, on a Linux without wheels, libsndfile1)",
    "soxr": "pip install soxr",
    "espeakng_loader": "pip install espeakng-loader  (synthetic speech of the demo and the tests)",
    "data_scripts": REPOSITORY,
    "models": REPOSITORY,
    "trainers": REPOSITORY,
}
DISTRIBUTIONS = {
    "espeakng_loader": "espeakng-loader",
    "sklearn": "scikit-learn",
    "xgboost": "xgboost-cpu" if sys.platform == "linux" and platform.machine() == "x86_64" else "xgboost",
    "data_scripts": "amvi",
    "models": "amvi",
    "trainers": "amvi",
}
PYTHONS = ((3, 11), (3, 14))
GLOO = """
import torch.distributed as d
d.init_process_group("gloo", init_method="file://{file}", rank=0, world_size=1); d.barrier(); d.destroy_process_group()
"""


def check_all(folder: Path, wanted_gb: float, *, online: bool = False) -> Iterator[Finding]:
    """Every finding, in the order in which one depends on another.

    Args:
        folder: where runs go.
        wanted_gb: space wanted there.
        online: ask the Hub whose token it is.
    """
    yield from check_python()
    yield from check_packages()
    yield from check_torchcodec()
    yield from check_devices()
    yield from check_processes()
    yield from check_folder(folder, wanted_gb)
    yield from check_token(online)


def check_python() -> Iterator[Finding]:
    version = sys.version_info[:2]
    state = OK if PYTHONS[0] <= version <= PYTHONS[1] else FAIL
    yield state, f"Python {sys.version.split()[0]}", f"use Python {PYTHONS[0][0]}.{PYTHONS[0][1]} to 3.{PYTHONS[1][1]}"


def check_packages() -> Iterator[Finding]:
    """Imports each: a wheel for another machine is found only so."""
    for name, mend in NEEDED.items():
        if problem := import_problem(name):
            yield FAIL, f"{name}: {problem}", mend
            continue
        try:
            yield OK, f"{name} {metadata.version(DISTRIBUTIONS.get(name, name))}", ""
        except metadata.PackageNotFoundError:  # found in this folder, but not from any other
            yield FAIL, f"{name} is not installed", mend


def import_problem(name: str) -> str | None:
    """Why a module cannot be imported, on one line; None if it can."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken wheel raises OSError or RuntimeError, not only ImportError
        lines = str(error).splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"
    return None


def check_torchcodec() -> Iterator[Finding]:
    """Nothing here needs it, but other code in the same environment may stumble."""
    if "torchcodec" in {dist.metadata["Name"] for dist in metadata.distributions()} and import_problem("torchcodec"):
        yield (
            NOTE,
            "torchcodec is installed and does not load; audio is decoded with soundfile here",
            ("pip uninstall torchcodec, if nothing else wants it"),
        )


def check_devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception:
        return
    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi") is not None
        yield (
            (FAIL if driver else OK),
            f"CPU only, {torch.get_num_threads()} threads",
            ("torch sees no GPU beside an NVIDIA driver: install its CUDA build, check CUDA_VISIBLE_DEVICES"),
        )
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        state = OK if free > 0.8 * total else NOTE
        name = f"GPU {index}: {properties.name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield state, name, "another process holds memory of this GPU: see nvidia-smi"
        if not torch.cuda.is_bf16_supported():
            yield NOTE, f"GPU {index} has no bfloat16", "train with --training.bf16 false --training.fp16 true"


def check_processes() -> Iterator[Finding]:
    """Several processes must be able to meet: gloo on any machine, NCCL between GPUs."""
    try:
        import torch
        from torch import distributed
    except Exception:
        return
    if not distributed.is_available():
        yield FAIL, "torch has no distributed package", PAIR
        return
    with tempfile.TemporaryDirectory() as scratch:
        code = GLOO.format(file=os.path.join(scratch, "store"))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    mend = "name a network interface that works: export GLOO_SOCKET_IFNAME=lo (or eth0)"
    yield (OK, "processes can meet (gloo)", "") if done.returncode == 0 else (FAIL, f"gloo: {last}", mend)
    if torch.cuda.device_count() > 1:
        state = OK if distributed.is_nccl_available() else FAIL
        yield state, "GPUs can meet (NCCL)", "install the CUDA build of torch, which brings NCCL"


def check_folder(folder: Path, wanted_gb: float) -> Iterator[Finding]:
    """Runs can be written, and have room."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
    except OSError as error:
        yield FAIL, f"{place} cannot be written: {error.strerror}", "choose another --training.output_dir"
    else:
        yield OK, f"{place} can be written", ""
    free_gb = shutil.disk_usage(place).free / 1e9
    room = f"{free_gb:.0f} GB free in {place} (wanted: {wanted_gb:g})"
    yield (OK if free_gb >= wanted_gb else FAIL), room, "free some space, or put runs elsewhere"


def check_token(online: bool) -> Iterator[Finding]:
    """A token is needed for gated corpora and for publishing only."""
    try:
        from huggingface_hub import HfApi, get_token
    except Exception:
        return
    token = get_token()
    if token is None:
        yield NOTE, "no Hugging Face token: gated corpora and publishing will not work", "hf auth login"
        return
    if not online:
        yield OK, "a Hugging Face token is set (--online true asks the Hub about it)", ""
        return
    try:
        found = HfApi(token=token).whoami()
    except Exception as error:
        problem = mask(str(error), token)
        yield FAIL, f"the Hub does not take the token: {problem}", "hf auth login, with a token that may write"
        return
    role = (found.get("auth") or {}).get("accessToken", {}).get("role", "unknown")
    state = OK if role != "read" else NOTE
    yield state, f"Hugging Face token of {found['name']}, role {role}", "publishing needs one that may write"


def mask(message: str, token: str) -> str:
    """The first line of a message, without the token."""
    from trainers.secrets import mask_tokens

    lines = mask_tokens(message.replace(token, "hf_***")).strip().splitlines()
    return lines[0] if lines else "no reason given"
