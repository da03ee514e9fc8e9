"""`halflabel` commands in processes of their own that get a signal at a file they open, or whose files cannot grow."""

import contextlib
import os
import re
import resource
import signal
import sys
import time

import forked

from halflabel_cli import main


def halflabel(arguments, output, kill_at=None, largest_file=None, number=signal.SIGKILL):
    """Run a command.

    Args:
        arguments: Of the command.
        output: A file that gets all it prints.
        kill_at: (pattern, count): a signal when it opens a file whose path the pattern finds, for the count-th time; a
            third element names another audit event than `open`, like `os.rename`.
        largest_file: Bytes; what would grow further fails as on a full disk.
        number: Which signal.

    Returns:
        Its exit code, -9 where it was killed.
    """
    process = forked.start(run, list(map(str, arguments)), kill_at, largest_file, number, output=output)
    process.join()
    return process.exitcode


def run(arguments, kill_at=None, largest_file=None, number=signal.SIGKILL):
    """Run a command in this process, see `halflabel`."""
    for one in (signal.SIGINT, signal.SIGTERM):  # as a terminal starts it
        signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
    if kill_at is not None:
        sys.addaudithook(_killer(number, *kill_at))
    sys.argv = ["halflabel", *arguments]
    with small_disk(resource.RLIM_INFINITY if largest_file is None else largest_file):
        return main()


@contextlib.contextmanager
def small_disk(largest_file):
    """Have files that grow beyond so many bytes fail as on a full disk."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1][1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])


def _killer(number, pattern, count, awaited="open"):
    left = count

    def watch(event, arguments):
        nonlocal left
        if event == awaited and re.search(pattern, str(arguments[0])):
            left -= 1
            if not left:
                os.write(1, f"signal at {time.time()}\n".encode())
                os.kill(os.getpid(), number)

    return watch
