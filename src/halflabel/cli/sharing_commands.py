"""What the commands that share a model do; the parser stands in `halflabel_cli`."""

import argparse


def run_push(options: argparse.Namespace) -> int:
    """Upload a finished folder to the Hub."""
    from ..share.push import push

    url = push(
        options.folder, options.repository, private=options.private or None, revision=options.revision,
        message=options.message,
    )  # fmt: skip
    print(f"pushed to {url}")
    return 0


def run_card(options: argparse.Namespace) -> int:
    """Render a model's card again from what its folder holds."""
    from ..share.card import card

    card(options.folder, options.repository)
    print(f"written: {options.folder}/README.md")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Write a model in another format."""
    from transformers.utils import logging as transformers_logging

    from ..share.export import export

    transformers_logging.disable_progress_bar()
    print(export(options.model, options.output, options.format))
    print(f"written: {options.output}")
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """Show a model in the browser, or make a Space that does."""
    from ..share.demo import demo

    made = demo(options.model, options.host, options.port, options.space, options.output)
    if made is not None:
        print(f"pushed to {made}" if options.output is None else f"written: {made}")
    return 0


SHARING_COMMANDS = {
    "card": run_card,
    "demo": run_demo,
    "export": run_export,
    "push": run_push,
}
