"""Import every package the suite needs, look at the machine, and say in one line each what to mend.

    python scripts/doctor.py          # or: make doctor

Exit code 0 when everything needed is there, 1 otherwise.
"""

import importlib
import shutil
import sys
from importlib import metadata

REQUIRED = {
    "torch": "pip install torch==2.11.0 torchaudio==2.11.0  (a matched pair)",
    "torchaudio": "torch and torchaudio must be the same release: pip install torch==2.11.0 torchaudio==2.11.0",
    "transformers": "pip install -r requirements.txt",
    "datasets": "pip install -r requirements.txt",
    "huggingface_hub": "pip install -r requirements.txt",
    "accelerate": "pip install -r requirements.txt",
    "peft": "pip install -r requirements.txt",
    "evaluate": "pip install -r requirements.txt",
    "deepspeed": "pip install -r requirements.txt  (it ships as source; needs no compiler at install)",
    "soundfile": "pip install soundfile",
    "soxr": "pip install soxr",
    "espeakng_loader": "pip install espeakng-loader  (synthetic speech of the demo and tests)",
    "trainers": "run from the repository: pip install -e .",
    "models": "run from the repository: pip install -e .",
    "data_scripts": "run from the repository: pip install -e .",
}
DISTRIBUTIONS = {"espeakng_loader": "espeakng-loader", "trainers": "amvi", "models": "amvi", "data_scripts": "amvi"}
FREE_DISK_GB = 5


def check_package(name: str) -> str | None:
    """None when `name` imports, else the reason it does not."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken wheel raises OSError or RuntimeError, not only ImportError
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def main() -> int:
    """Print one line per check; return the number of failed ones, capped at 1."""
    failed = 0
    for name, mend in REQUIRED.items():
        problem = check_package(name)
        version = "" if problem else metadata.version(DISTRIBUTIONS.get(name, name))
        print(
            f"{'FAIL' if problem else 'ok  '} {name} {version}"
            + (f"  {problem}\n       mend: {mend}" if problem else "")
        )
        failed += problem is not None
    if check_package("torchcodec") and "torchcodec" in {d.name for d in metadata.distributions()}:
        print("note torchcodec is installed but does not load; this suite decodes with soundfile and never needs it")
    try:
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        print(f"ok   devices: {', '.join(gpus) if gpus else f'CPU only, {torch.get_num_threads()} threads'}")
    except ImportError:
        pass
    free_gb = shutil.disk_usage(".").free / 1e9
    print(f"{'ok  ' if free_gb > FREE_DISK_GB else 'FAIL'} disk: {free_gb:.0f} GB free here (wanted: {FREE_DISK_GB})")
    return int(failed > 0 or free_gb <= FREE_DISK_GB)


if __name__ == "__main__":
    sys.exit(main())
