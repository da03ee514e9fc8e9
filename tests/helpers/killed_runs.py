"""`halflabel` commands in processes of their own that get a signal at a file they open, or whose files cannot grow."""

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
        kill_at: (pattern, count): a signal when it opens a file whose path the pattern finds, for the count-th time.
        largest_file: Bytes; what would grow further fails as on a full disk.
        number: Which signal.

    Returns:
        Its exit code, -9 where it was killed.
    """
    process = forked.start(_run, list(map(str, arguments)), kill_at, largest_file, number, output=output)
    process.join()
    return process.exitcode


def _run(arguments, kill_at, largest_file, number):
    for one in (signal.SIGINT, signal.SIGTERM):  # as a terminal starts it
        signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    if kill_at is not None:
        sys.addaudithook(_killer(*kill_at, number))
    sys.argv = ["halflabel", *arguments]
    return main()


def _killer(pattern, count, number):
    left = count

    def watch(event, arguments):
        nonlocal left
        if event == "open" and re.search(pattern, str(arguments[0])):
            left -= 1
            if not left:
                os.write(1, f"signal at {time.time()}\n".encode())
                os.kill(os.getpid(), number)

    return watch
