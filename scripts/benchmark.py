"""Speed claims as ratios against named peers, measured side by side on this machine.

    python scripts/benchmark.py                      # all of scripts/benchmarks/*.py
    python scripts/benchmark.py s2p_step joint_step  # some

Each benchmark runs alone in a fresh process on one thread. Prints a table and writes benchmarks.json: a list of
{name, peer, ours, theirs, unit, ratio}; a ratio above 1 means faster than the peer.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().with_name("benchmarks")


def available() -> dict[str, Path]:
    """Benchmark files by name; a leading underscore marks helpers."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.py")) if not path.stem.startswith("_")}


def run_file(path: str) -> list[dict[str, Any]]:
    """The rows of one benchmark; called in a process of its own."""
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run()


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the named benchmarks and write their rows down."""
    files = available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(files)}; default all")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"), help="where the rows go")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in files]
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are: {', '.join(files)}")
    # Before the processes start: thread pools read it when they are made.
    os.environ["OMP_NUM_THREADS"] = "1"
    console, rows = Console(), []
    for name in args.names or files:
        console.print(f"{name} ...", style="dim")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows += pool.apply(run_file, (str(files[name]),))
    table = Table("benchmark", "peer", "ours", "theirs", "unit", "ratio")
    for row in rows:
        figures = (f"{row['ours']:,.4g}", f"{row['theirs']:,.4g}")
        table.add_row(row["name"], row["peer"], *figures, row["unit"], f"{row['ratio']:.1f}×")
    console.print(table)
    args.out.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"written to {args.out}")
    return rows


if __name__ == "__main__":
    main()
