"""``autoint COMMAND``, or ``python -m autoint COMMAND``: the one door to everything that can be done."""

from __future__ import annotations

import inspect
import os
import sys

from autoint import __version__
from autoint.registry import COMMANDS
from autoint.runs.signals import importing


def main() -> None:
    """Run the command that the first argument names, with the others."""
    try:
        _run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        from autoint.runs.command_line.cli import reader_left

        reader_left()
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command begins anew", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] in ("--version", "-V"):
        print(f"autoint {__version__}")
        return
    # Lightning starts the other processes of a training by Hydra's flags, without the command.
    name = "train" if arguments[0].startswith("-") else arguments.pop(0)
    with importing():
        command = COMMANDS[name]
    command(arguments)


def usage() -> str:
    """Return what there is to choose from, a line each."""
    lines = [f"  {name:10} {(inspect.getdoc(COMMANDS[name]) or '').splitlines()[0]}" for name in COMMANDS.names()]
    more = "autoint COMMAND --help says more of one of them."
    program = os.path.basename(sys.argv[0]).replace("__main__.py", "python -m autoint")
    return "\n".join([f"usage: {program} COMMAND …", "", *lines, "", more])


if __name__ == "__main__":
    main()
