"""Look at this machine as a run will find it: one line a check, each with its mend.

    python scripts/doctor.py                       # or: make doctor
    python scripts/doctor.py --folder /data/runs --wanted_gb 200 --online true

Exit status: 0 when everything needed is there, 1 otherwise. Notes are no failures.
"""

import argparse
import sys
from pathlib import Path

# Also where this package is not installed: saying so is the doctor's job.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from trainers.doctor import FAIL, NOTE, check_all


def main(argv: list[str] | None = None) -> int:
    """Print every finding; 1 if any of them stops a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="where runs and caches go")
    parser.add_argument("--wanted_gb", type=float, default=5.0, help="free space wanted there")
    parser.add_argument(
        "--online", choices=("true", "false"), default="false", help="also ask the Hub about the token"
    )
    options = parser.parse_args(argv)
    failed = False
    for state, what, mend in check_all(options.folder, options.wanted_gb, online=options.online == "true"):
        print(f"{state:4} {what}" + (f"\n     mend: {mend}" if mend and state != "ok" else ""), flush=True)
        failed |= state == FAIL
    print(f"{'something needed is missing' if failed else 'ready'} ({NOTE} lines are no failures)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
