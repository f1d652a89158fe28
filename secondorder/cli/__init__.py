"""The command line: ``python -m secondorder demo | verify | orders | memory``."""

import argparse
from collections.abc import Sequence
from importlib import import_module

# Each command is a module with main(argv) -> exit status, imported when it is called.
COMMANDS = {
    "demo": "fit toy problems with first- and second-order flows (figures, table)",
    "verify": "train linear models and compare with the theory of what they represent",
    "orders": "measure the order of every method",
    "memory": "count the bytes that every gradient route keeps, against depth",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m secondorder",
        description="Second-order neural ODEs and Momentum ResNets.",
        epilog="Each command has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, text in COMMANDS.items():
        # Everything after the name belongs to the command, --help included.
        commands.add_parser(name, help=text, add_help=False)
    args, rest = parser.parse_known_args(argv)
    return import_module(f".{args.command}", __name__).main(rest)
