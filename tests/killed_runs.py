"""`halflabel` commands in processes of their own that are killed at a file they open, or whose files cannot grow.

The processes are forks of one that has imported everything, so that each takes a second or two.
"""

import multiprocessing
import os
import re
import resource
import signal
import sys

from halflabel_cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["halflabel.cli", "halflabel.training"])


def halflabel(arguments, output, kill_at=None, largest_file=None):
    """Run a command.

    Args:
        arguments: Of the command.
        output: A file that gets all it prints.
        kill_at: (pattern, count): SIGKILL when it opens a file whose path the pattern finds, for the count-th time.
        largest_file: Bytes; what would grow further fails as on a full disk.

    Returns:
        Its exit code, -9 where it was killed.
    """
    process = _CONTEXT.Process(target=_run, args=(list(map(str, arguments)), str(output), kill_at, largest_file))
    process.start()
    process.join()
    return process.exitcode


def _run(arguments, output, kill_at, largest_file):
    multiprocessing.set_start_method("fork", force=True)  # of loading processes, as it is in a command
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    if kill_at is not None:
        sys.addaudithook(_killer(*kill_at))
    sys.exit(main(arguments))


def _killer(pattern, count):
    left = count

    def watch(event, arguments):
        nonlocal left
        if event == "open" and re.search(pattern, str(arguments[0])):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    return watch
