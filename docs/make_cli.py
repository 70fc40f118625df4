"""Write docs/cli.md from the commands' own --help; `--check` only compares (exit 1 where it differs)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from batchqa.cli.entry import commands

TARGET = Path(__file__).parent / "cli.md"
WIDTH = 100


def reference() -> str:
    """The whole page: each command's help in a block of its own."""
    pages = [
        ("batchqa", commands),
        *((f"batchqa {name}", c) for name, c in sorted(commands.commands.items())),
    ]
    blocks = [f"## {name}\n\n```\n{_help(name, command)}\n```\n" for name, command in pages]
    head = "# Command line\n\nWritten by `make docs` from `--help`; do not edit.\n\n"
    return head + "\n".join(blocks)


def main() -> int:
    """Write or check; the exit code is returned."""
    page = reference()
    if "--check" not in sys.argv:
        TARGET.write_text(page, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == page:
        return 0
    print(f"{TARGET} is out of date; run `make docs`", file=sys.stderr)
    return 1


def _help(name: str, command: click.Command) -> str:
    settings = dict(commands.context_settings) | {"terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, **settings)
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


if __name__ == "__main__":
    sys.exit(main())
