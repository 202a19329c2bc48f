"""How all commands parse their command line, and how they end."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import jaxtag
from jaxtag import __main__, cli
from jaxtag.errors import UserError, exit_status


def _define_flags() -> None:
    flags.DEFINE_string("color", None, "What to paint with.")
    flags.DEFINE_integer("num_images", 3, "How many.", lower_bound=1)
    cli.define_alias("pictures", "num_images")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command with `_define_flags`: (exit status, stdout, stderr)."""

    def run(*arguments: str, main=print, define_flags=_define_flags, **options):
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.run(main, define_flags, **options)
        return ended.value.code or 0, *capsys.readouterr()

    return run


def _show(argv: list[str]) -> None:
    """Paints."""
    print(flags.FLAGS.color, flags.FLAGS.num_images, argv)


def test_flags_and_positional_arguments_in_any_order(run):
    arguments = ["--color=red", "a", "--num_images", "5", "--", "--b", "-c"]
    assert run(*arguments, main=_show, positional=True)[:2] == (0, "red 5 ['a', '--b', '-c']\n")


def test_an_old_name_of_a_flag_sets_the_new_one(run):
    assert run("--pictures=7", main=_show)[1] == "None 7 []\n"


def test_flags_are_as_before_when_a_command_has_ended(run):
    before, verbosity = set(flags.FLAGS), flags.FLAGS.verbosity
    for color in ("red", "blue"):  # the second defines the same names again
        status, out, _ = run(f"--color={color}", "--verbosity=1", main=_show)
        assert (status, out) == (0, f"{color} 3 []\n")
        assert set(flags.FLAGS) == before
        assert flags.FLAGS.verbosity == verbosity


def test_flags_are_as_before_when_a_command_has_failed(run):
    before = set(flags.FLAGS)

    def fail(argv: list[str]) -> None:
        raise UserError("the disk is full")

    assert run(main=fail) == (1, "", "error: the disk is full\n")
    assert set(flags.FLAGS) == before


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyError("a bug"), 70),
        (OSError(errno.EIO, "Input/output error"), 70),
        (OSError("a library's own"), 70),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 70),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (PermissionError(errno.EACCES, "Permission denied"), 1),
        (MemoryError(), 70),
    ],
)
def test_an_unexpected_exception_may_mend_unless_it_comes_again(run, error, status):
    def fail(argv: list[str]) -> None:
        raise error

    ended, out, err = run(main=fail)
    assert (ended, out) == (status, "")
    assert err.startswith("Traceback") and type(error).__name__ in err


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), 130), (SystemExit(3), 3), (SystemExit("why"), 1), (SystemExit(), 0)],
)
def test_exit_status_of_what_is_no_failure(error, status):
    assert exit_status(error) == status


def test_flags_of_a_library_imported_by_a_command_stay(run):
    """Its module stays in memory and reads them; grain's data loaders do."""

    def import_library(argv: list[str]) -> None:
        flags.DEFINE_integer("threads_of_a_library", 4, "Read later.")

    try:
        assert run(main=import_library)[0] == 0
        assert run(main=_show)[0] == 0
        assert flags.FLAGS.threads_of_a_library == 4
        assert "color" not in flags.FLAGS
    finally:
        delattr(flags.FLAGS, "threads_of_a_library")


@pytest.mark.parametrize("flag", ["--help", "-h", "-help"])
def test_help_is_the_docstring_and_the_flags(run, flag):
    status, out, _ = run("--color=red", flag, main=_show)
    assert status == 0
    assert out.startswith(__doc__) and "\nflags:\n" in out
    assert "--color: What to paint with." in out and "--num_images: How many." in out
    assert "--pictures" not in out  # an old name
    assert "--verbosity" not in out  # absl's


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--colour=red"], "Unknown command line flag 'colour'. Did you mean: color ?"),
        (["--num_images=0"], "flag --num_images=0"),
        (["--num_images=many"], "flag --num_images=many"),
        (["now"], "unexpected argument: now"),
    ],
)
def test_wrong_use_is_one_line(run, arguments, message):
    status, out, err = run(*arguments, main=_show)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


SUBCOMMANDS = ("build", "search")


@pytest.mark.parametrize(
    "arguments", [["search", "--color=red", "x"], ["--color=red", "search", "x"]]
)
def test_a_subcommand_comes_first_in_argv(run, arguments):
    status, out, err = run(*arguments, main=_show, positional=True, subcommands=SUBCOMMANDS)
    assert (status, out) == (0, "red 3 ['search', 'x']\n"), err


def test_a_subcommand_may_be_optional(run):
    options = {"subcommands": SUBCOMMANDS, "subcommand_required": False}
    assert run(main=_show, **options)[:2] == (0, "None 3 []\n")
    assert run("build", main=_show, **options)[:2] == (0, "None 3 ['build']\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "build|search … (see --help)"),
        (["serach"], "unknown subcommand 'serach' (did you mean search?)"),
        (["build", "x"], "unexpected argument: x"),
    ],
)
def test_wrong_subcommands(run, arguments, message):
    status, _, err = run(*arguments, main=_show, subcommands=SUBCOMMANDS)
    assert status == 2
    assert message in err


def _jaxtag(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jaxtag", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_console_command_lists_all_commands():
    done = _jaxtag("--help")
    assert done.returncode == 0
    for name in __main__.COMMANDS:
        assert f"  {name} " in done.stdout
    folder = Path(jaxtag.__file__).parent
    runnable = [*folder.glob("*.py"), *folder.glob("*/__main__.py")]
    runnable = [path for path in runnable if "\ndef run() -> None:\n" in path.read_text()]
    names = {path.stem if path.stem != "__main__" else path.parent.name for path in runnable}
    assert names == set(__main__.COMMANDS)


def test_the_list_needs_none_of_the_commands_imports():
    program = (
        "import sys; from jaxtag import __main__; __main__._help(); "
        "print({'jax', 'numpy', 'absl', 'flax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command given; see jaxtag --help"),
        (["trian"], "unknown command 'trian' (did you mean train?)"),
        (["train", "now"], "unexpected argument: now"),
    ],
)
def test_wrong_use_of_the_console_command(arguments, message):
    done = _jaxtag(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
