"""What a user types, checked before any work and refused in one line with status 2.

    0  all is well      1  a check failed      2  bad arguments      3  an error

Status 1 belongs to the checks of ``verify`` and ``orders``: whoever runs them by a
script must be able to tell a wrong number from a wrong path.
"""

import json
import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn


def parse(
    text: ArgumentParser, argv: Sequence[str] | None, known_only: bool = False
) -> tuple[Namespace, list[str]]:
    """Parse, or refuse in one line; return the arguments, and the unknown ones.

    A directory ``--out`` is there and can be written into afterwards; so can a file
    ``--json``.
    """
    text.error = partial(refuse, text.prog)  # type: ignore[method-assign]
    args, rest = text.parse_known_args(argv)
    if rest and not known_only:
        text.error(f"unrecognized arguments: {' '.join(rest)}")
    if getattr(args, "out", None) is not None:
        make_directory(text, args.out)
    if getattr(args, "json", None) is not None:
        writable(text, args.json)
    return args, rest


def refuse(prog: str, message: object) -> NoReturn:
    """Say in one line what is wrong, and exit with status 2."""
    line = " ".join(f"{message}".split())
    print(f"{prog}: {line} (usage: {prog} --help)", file=sys.stderr)
    raise SystemExit(2)


def make_directory(text: ArgumentParser, out: Path) -> None:
    """Make the directory of the figures, or refuse one that takes no files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        text.error(f"argument --out: cannot write into {out}: {error.strerror}")


def replaceable(text: ArgumentParser, paths: Iterable[Path]) -> None:
    """Refuse files of an earlier run that cannot be written again."""
    for path in paths:
        try:
            if path.exists():
                path.open("ab").close()
        except OSError as error:
            text.error(f"argument --out: cannot replace {path}: {error.strerror}")


def writable(text: ArgumentParser, path: Path) -> None:
    """Refuse a file of results that cannot be written, and leave none behind."""
    try:
        there = path.exists()
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        text.error(f"argument --json: cannot write {path}: {error.strerror}")


def common(
    text: ArgumentParser,
    figure: str = "",
    default: Path | None = None,
    quick: str = "",
    numbers: bool = True,
) -> None:
    """The arguments that commands share: ``--out``, ``--json`` and ``--quick``."""
    if figure:
        where = f" (default: {default})" if default else ""
        text.add_argument(
            "--out",
            type=directory,
            default=default,
            metavar="DIR",
            help=f"write {figure} there{where}",
        )
    if numbers:
        text.add_argument(
            "--json", type=Path, metavar="FILE", help="write the numbers there, too"
        )
    if quick:
        text.add_argument("--quick", action="store_true", help=quick)


def only(text: ArgumentParser, names: Sequence[str], kind: str) -> None:
    """The argument ``--only``: some of the things that a command does."""
    said = f"some of {', '.join(names)} (default: all)"
    text.add_argument(
        "--only", choices=names, nargs="+", default=names, metavar=kind, help=said
    )


def write_json(path: Path | None, numbers: object) -> None:
    """Write what a command found, if a file was asked for."""
    if path is not None:
        text = json.dumps(numbers, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def directory(value: str) -> Path:
    """The type of ``--out``; the empty text of an unset variable is no directory."""
    if not value:
        raise ArgumentTypeError("must be a directory, got an empty text")
    return Path(value)


def count(value: str) -> int:
    """The type of a number of things: a whole number, at least 1."""
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"must be a positive integer, got {value!r}")
    return number
