"""Functions in processes of their own, forked from one that has imported everything, so that each starts at once."""

import gc
import multiprocessing
import os
import socket
import sys
from multiprocessing.connection import wait
from pathlib import Path

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["halflabel.cli.commands", "halflabel.training.run"])


def start(function, *arguments, output, environment=None):
    """Start a process in which a function runs.

    Args:
        function: Of a module that can be imported. What it returns is the exit code.
        arguments: Of the function.
        output: A file that gets all it prints.
        environment: Variables that are set in this process.
    """
    process = CONTEXT.Process(target=_run, args=(str(output), environment or {}, function, arguments))
    process.start()
    return process


def in_two_processes(function, *arguments, folder, code=0):
    """Run a function in two processes that work together, as torchrun would start them.

    Args:
        function: Of a module that can be imported.
        arguments: Of the function.
        folder: Gets files with what they print.
        code: The exit code of each.

    Returns:
        What each printed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2",
                  "LOCAL_WORLD_SIZE": "2"}  # fmt: skip
    outputs = [Path(folder) / f"output.{rank}" for rank in range(2)]
    running = [
        start(_run_rank, function, arguments, output=output, environment={**common, "RANK": rank, "LOCAL_RANK": rank})
        for rank, output in zip("01", outputs, strict=True)
    ]
    left = list(running)
    while left:
        if not (ended := wait([process.sentinel for process in left], timeout=280)):
            break
        left = [process for process in left if process.sentinel not in ended]
        if any(process.exitcode != code for process in running if process not in left):
            break  # the other would wait for it
    for process in left:
        process.kill()
    for process in running:
        process.join()
    printed = [output.read_text() for output in outputs]
    assert [process.exitcode for process in running] == [code, code], "\n".join(text[-3000:] for text in printed)
    return printed


def _run(output, environment, function, arguments):
    gc.freeze()  # what was imported is neither collected nor copied
    multiprocessing.set_start_method("fork", force=True)  # of loading processes, as it is in a command
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(function(*arguments))


def _run_rank(function, arguments):
    torch.set_num_threads(1)
    code = function(*arguments)
    torch.distributed.destroy_process_group()
    return code
