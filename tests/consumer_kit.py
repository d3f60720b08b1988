"""A process of somebody who has transformers, and none of this project's packages."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HIDE = """
import importlib.abc
import json
import sys


class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("trainers", "models", "data_scripts", "scripts"):
            raise ImportError(f"{name} is hidden")


sys.meta_path.insert(0, Hidden())
"""
TELL = """
ours = ("trainers", "models", "data_scripts", "scripts")
out["code"] = type(pipe.model).__module__
out["ours"] = sorted(name for name in sys.modules if name.split(".")[0] in ours)
print("RESULT " + json.dumps(out))
"""


def run_consumer(
    code: str, *arguments: object, home: Path, endpoint: str | None = None, token: str = ""
) -> dict[str, Any]:
    """What `code` puts into `out`; it must also make a pipeline, `pipe`, from the files of a model alone.

    Args:
        home: an empty folder, for its own cache and the code.
        endpoint: of a hub that it may talk to, with `token`; without one it is offline.
    """
    script = home / "consumer.py"
    script.write_text(HIDE + code + TELL, encoding="utf-8")
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    env |= {"HF_HOME": str(home / "home"), "OMP_NUM_THREADS": "1"}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"HF_HUB_OFFLINE": "1"} if endpoint is None else {"HF_ENDPOINT": endpoint, "HF_TOKEN": token}
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads(done.stdout.split("RESULT ")[1])
    assert out["ours"] == [] and out["code"].startswith("transformers_modules.")
    return out
