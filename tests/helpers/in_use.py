"""An output folder that another process writes to."""

import contextlib
import subprocess
import sys

HOLD = """
import sys
from pathlib import Path
from halflabel.data.files import sole_use
with sole_use(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def in_use(folder):
    """Another process has the folder while the block runs; its id is given, and it is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()
