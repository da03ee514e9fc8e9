"""What the commands that share a model do; the parser stands in `halflabel_cli`."""

import argparse


def run_push(options: argparse.Namespace) -> int:
    """Upload a finished folder to the Hub."""
    from ..share.sharing import push_folder

    url = push_folder(options.folder, options.repository, options.private or None, options.revision, options.message)
    print(f"pushed to {url}")
    return 0


def run_card(options: argparse.Namespace) -> int:
    """Render a model's card again from what its folder holds."""
    from ..share.card_files import write_card

    write_card(options.folder, options.repository)
    print(f"written: {options.folder}/README.md")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Write a model in another format."""
    from pathlib import Path

    from transformers.utils import logging as transformers_logging

    from ..share.export import export_model

    transformers_logging.disable_progress_bar()
    print(export_model(options.model, options.format, Path(options.output)))
    print(f"written: {options.output}")
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """Show a model in the browser, or make a Space that does."""
    from pathlib import Path

    from ..model.errors import HalflabelError

    if options.space is None:
        if options.output is not None:
            raise HalflabelError("--output is for the folder of a Space: give its name with --space")
        from ..share.demo import serve

        serve(options.model, options.host, options.port)
        return 0
    from ..share.demo_space import push_space, write_space

    if options.output is None:
        print(f"pushed to {push_space(options.model, options.space)}")
    else:
        write_space(options.model, options.space, Path(options.output))
        print(f"written: {options.output}")
    return 0


SHARING_COMMANDS = {
    "card": run_card,
    "demo": run_demo,
    "export": run_export,
    "push": run_push,
}
