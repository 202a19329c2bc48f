"""The console command: `jaxtag train …` is `python -m jaxtag.train …`."""

import ast
import importlib
import sys
from pathlib import Path

from jaxtag.errors import did_you_mean

COMMANDS = (
    "train",
    "evaluate",
    "annotate",
    "prepare",
    "index",
    "few_shot",
    "weights",
    "export",
    "find_lr",
    "compare",
    "compile",
    "profile",
    "debug",
)


def main() -> None:
    """Runs the command that the first argument names; ends the process with its exit status."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("--help", "-help", "-h", "help"):
        print(_help())
        sys.exit(0)
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        problem = f"unknown command {name!r}{hint}" if name else "no command given"
        print(f"error: {problem}; see jaxtag --help", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"jaxtag {name}", *arguments]
    importlib.import_module(module_name(name)).run()


def module_name(command: str) -> str:
    """The module that `python -m` runs for a command; of a package its __main__."""
    is_package = (Path(__file__).parent / command).is_dir()
    return f"jaxtag.{command}.__main__" if is_package else f"jaxtag.{command}"


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {_summary(name)}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: jaxtag COMMAND [ARGUMENT…]",
            "",
            *rows,
            "",
            "jaxtag COMMAND --help explains a command and its flags.",
        ]
    )


def _summary(command: str) -> str:
    """The first line of a command's docstring, read without importing what the command needs."""
    path = Path(__file__).parent.joinpath(*module_name(command).split(".")[1:]).with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    main()
