"""The command line, ``python -m secondorder COMMAND``: every key of ``COMMANDS``."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from .arguments import parse, refuse

# Each command is a module with main(argv) -> exit status, imported when it is called.
COMMANDS = {
    "demo": "fit toy problems with first- and second-order flows (figures, table)",
    "verify": "train linear models and compare with the theory of what they represent",
    "orders": "measure the order of every method",
    "memory": "count the bytes that every gradient route keeps, against depth",
    "bench": "time the gradient routes on this machine, as ratios to backprop",
    "plot": "draw the phase portrait of a system, named or of a module of yours",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m secondorder",
        description="Second-order neural ODEs and Momentum ResNets.",
        epilog="Each command has its own --help. Exit status: 0 if all is well, 1 if a "
        "check failed, 2 for bad arguments, 3 for an error.",
    )
    version = import_module("..", __name__).__version__
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, text in COMMANDS.items():
        # Everything after the name belongs to the command, --help included.
        commands.add_parser(name, help=text, add_help=False)
    args, rest = parse(parser, argv, known_only=True)
    command = import_module(f".{args.command}", __name__)
    prog = command.parser().prog
    try:
        return command.main(rest)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130  # as shells count it
    except OSError as error:  # the disk is full, a directory has gone
        refuse(prog, error)
    except Exception:
        traceback.print_exc()
        return 3  # an error, not a failed check
