"""Run a recipe and note which training pictures this process decoded; started by test_streaming.py under torchrun.

`stream_of_process.py RECIPE FOLDER` writes FOLDER/RANK.txt.
"""

import os
import sys
from pathlib import Path

import halflabel.data.streaming
from halflabel_cli import main

decode = halflabel.data.streaming.decode_image


def noted(record, name, shortest_side=None):
    with Path(sys.argv[2], os.environ["RANK"] + ".txt").open("a") as lines:
        lines.write(f"{name}\n")
    return decode(record, name, shortest_side)


if __name__ == "__main__":
    halflabel.data.streaming.decode_image = noted
    sys.exit(main(["train", sys.argv[1]]))
