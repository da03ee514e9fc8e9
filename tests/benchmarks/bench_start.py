"""How long the command line and the package take to start.

    python tests/benchmarks/bench_start.py [--rounds 7] [--output FILE]

`halflabel --help` beside an empty interpreter; `import halflabel` beside importing the three Auto classes of
transformers that it registers with, and timm. Whole processes, interleaved, medians. Bars: under 1 s without importing
torch; at most 1.15 times as long.
"""

import argparse
import subprocess
import sys
import time

from side_by_side import median, show

HELP = "import sys, halflabel_cli\ntry:\n    halflabel_cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
SIDES = {
    "python -c pass": "pass",
    "halflabel --help": HELP + "assert 'torch' not in sys.modules",
    "transformers and timm": "import timm\n"
                             "from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification",
    "import halflabel": "import halflabel",
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", help="also write the table as JSON")
    options = parser.parse_args()
    found = {side: [] for side in SIDES}
    for number in range(options.rounds + 1):
        for side, code in SIDES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            if number:  # the first time files come from the disk
                found[side].append({"seconds": time.perf_counter() - start})
    seconds = {side: median(made, "seconds") for side, made in found.items()}
    peers = {"halflabel --help": "python -c pass", "import halflabel": "transformers and timm"}
    rows = [{"process": side, "seconds": value, "ratio": value / seconds[peers[side]] if side in peers else None}
            for side, value in seconds.items()]  # fmt: skip
    show(rows, list(rows[0]), options.output)


if __name__ == "__main__":
    main()
