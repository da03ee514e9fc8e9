"""`halflabel` commands in processes of their own that are killed at a file they open, or whose files cannot grow."""

import os
import re
import resource
import signal
import sys

import forked

from halflabel_cli import main


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
    process = forked.start(run, list(map(str, arguments)), kill_at, largest_file, output=output)
    process.join()
    return process.exitcode


def run(arguments, kill_at, largest_file):
    """Run a command in this process, see `halflabel`."""
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    if kill_at is not None:
        sys.addaudithook(_killer(*kill_at))
    return main(arguments)


def _killer(pattern, count):
    left = count

    def watch(event, arguments):
        nonlocal left
        if event == "open" and re.search(pattern, str(arguments[0])):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    return watch
