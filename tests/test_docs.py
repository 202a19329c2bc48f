"""The documentation builds, and what it shows works: every code block is run or checked.

- `python` blocks of a page run in order, in one namespace, in the folder of `example_folder`.
  A block with `title="NAME.py"` is written to that file instead, for later blocks to import.
- `bash` blocks hold only commands of jaxtag. Flags, configuration and overrides are checked;
  those in RUN also run.
- `console` blocks cannot be tested: UNTESTED lists them, with the reason.
- `text` blocks are no code.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from absl import flags as absl_flags
from calling import call
from ml_collections import config_flags
from PIL import Image

from jaxtag import datasets
from jaxtag.config import checks, dotted, flags, legacy, schema
from jaxtag.data.shard_files import names_shard_files
from jaxtag.models import registry

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
}
OWN_DATASETS = {"my_captions", "my_tags", "my_classes"}

# Commands that run as they stand, in order; all others are checked without running.
RUN = {
    "docs/guides/getting-started.md": [
        "jaxtag evaluate --workdir=runs/shapes --split=test",
        "jaxtag evaluate --workdir=runs/shapes --config.task.decoding.method=greedy",
        "jaxtag evaluate --results=RESULTS.json --references=captions_val2014.json",
        "jaxtag annotate --workdir=runs/shapes --output=captions.jsonl photos/",
    ],
    "docs/guides/data.md": [
        "jaxtag prepare --dataset=my_captions --source=~/captions",
        "jaxtag prepare --dataset=my_tags --source=~/tags",
        "jaxtag prepare --dataset=my_classes --source=~/classes",
    ],
    "docs/guides/tag-index.md": [
        "jaxtag index build --index=runs/pixels --pixels=16 --tags=tags.csv",
        "jaxtag index add --index=runs/pixels --tag=beach,dog photos/",
        "jaxtag index search --index=runs/pixels photos/c.jpg",
        "jaxtag index untag --index=runs/pixels --tag=dog photos/c.jpg",
        "jaxtag index remove --index=runs/pixels photos/a.jpg",
        "jaxtag index compact --index=runs/pixels",
        "jaxtag index info --index=runs/pixels",
    ],
}

# (page, first word of the block): why it is not tested.
UNTESTED = {
    ("README.md", "pip"): "installs packages",
    ("README.md", "launch/tpu_pod.sh"): "needs machines; tests/test_docs_pods.py",
    ("BUILD.md", "mkdocs"): "a server; the build is test_site_builds_without_warnings",
    ("CONTRIBUTING.md", "python3.11"): "makes an environment",
    ("CONTRIBUTING.md", ".ci/run"): "would run these tests",
    ("docs/guides/getting-started.md", "pip"): "installs packages",
    ("docs/guides/buckets.md", "pip"): "needs a bucket; tests/test_stores.py",
    ("docs/guides/pods.md", "launch/ssh.sh"): "needs machines; tests/test_docs_pods.py",
    ("docs/guides/pods.md", "launch/tpu_pod.sh"): "needs Cloud TPU; tests/test_docs_pods.py",
    ("docs/guides/pods.md", "docker"): "needs Docker; tests/test_docs_pods.py",
    ("docs/guides/pods.md", "sbatch"): "needs Slurm; tests/test_docs_pods.py",
    ("docs/guides/pods.md", "sky"): "needs SkyPilot; tests/test_docs_pods.py",
}


@dataclasses.dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The command lines of a bash block, continuation lines joined."""
        return [line for line in re.sub(r"\s*\\\n\s*", " ", self.text).splitlines() if line]


def blocks(page: str) -> list[Block]:
    page_blocks = []
    pattern = r'^```([\w-]*)(?: title="([^"]+)")?[^\n]*\n(.*?)^```$'
    for match in re.finditer(pattern, PAGES[page], re.MULTILINE | re.DOTALL):
        line = PAGES[page].count("\n", 0, match.start()) + 1
        page_blocks.append(Block(page, line, match[1], match[2] or "", match[3]))
    return page_blocks


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [
    pytest.param(block.page, command, id=f"{block.page}:{block.line}:{command[:60]}")
    for block in ALL_BLOCKS
    if block.language == "bash"
    for command in block.commands
]
# Blocks of benchmarks/ also hold scripts and their output: jaxtag's commands are picked out.
BENCHMARKS = [
    pytest.param(command.replace("=LOSS", "=proxy_anchor"), id=f"{path.name}:{command[:60]}")
    for path in sorted((ROOT / "benchmarks").glob("*.md"))
    for command in re.sub(r"\s*\\\n\s*", " ", path.read_text(encoding="utf-8")).splitlines()
    if command.startswith(("python -m jaxtag.", "launch/local.sh "))
]


@functools.cache
def hooks():
    """docs/hooks.py."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# The site


def test_site_builds_without_warnings(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert len(pages) > 50
    for path, text in pages.items():
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\bsrc="(https?:[^"]*)', text)
        loaded += re.findall(
            r'<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href="(https?:[^"]*)', text
        )
        assert not loaded, f"{path.name} loads {loaded[0]}"


def test_command_pages_have_the_flags_of_help(monkeypatch):
    for name, path in hooks().commands().items():
        documented = {flag.name for flag in hooks().command_flags(path)}
        help_text = call(name, "--help").out
        printed = set(re.findall(r"^\s+--(?:\[no\])?([\w.]+):", help_text, re.MULTILINE))
        assert documented == {flag for flag in printed if not flag.startswith("config.")}, name


def test_configuration_page_has_every_field():
    page = hooks().configuration_page()
    names = set(dotted.field_names(schema.Config()))
    for task in ("caption", "classify", "embed", "match", "tag"):
        section = schema.task_config_class(task)()
        names |= {f"task.{name}" for name in dotted.field_names(section)}
    listed = re.findall(r"^\| `([\w.]+)`", page, re.MULTILINE)
    assert set(listed) == names


def test_upgrading_lists_every_rename():
    _, *parts = re.split(r"^#### ", PAGES["CHANGELOG.md"], flags=re.MULTILINE)
    parts = {part.partition("\n")[0]: part for part in parts}

    def rows(part: str) -> list[list[str]]:
        lines = re.findall(r"^\| (`.*`) \|$", parts[part], re.MULTILINE)
        return [line.replace("`", "").split(" | ") for line in lines]

    assert dict(rows("Configuration fields")) == legacy.RENAMED
    for _, new in rows("Imports"):
        assert importlib.util.find_spec(new.partition(",")[0]), new
    aliases = set()
    for path in (ROOT / "jaxtag").rglob("*.py"):
        calls = re.findall(r'define_alias\("(\w+)", "(\w+)"\)', path.read_text(encoding="utf-8"))
        aliases |= {(f"--{old}", f"--{new}") for old, new in calls}
    assert {(old, new) for _, old, new in rows("Flags")} == aliases


def test_decisions_name_files_that_exist():
    for page, text in PAGES.items():
        if not page.startswith("docs/decisions/"):
            continue
        for name in re.findall(r"`([\w/]+/[\w./]*)`", text):
            if re.match(r"(tests|benchmarks|launch|[a-z_]+/)", name) and "xla/" not in name:
                assert (ROOT / name).exists() or (ROOT / "jaxtag" / name).exists(), (page, name)


# The blocks


def test_every_block_is_accounted_for():
    untested = set()
    for block in ALL_BLOCKS:
        where = f"{block.page}:{block.line}"
        assert block.language in ("python", "bash", "console", "text"), where
        if block.language == "console":
            key = (block.page, block.text.split()[0])
            assert key in UNTESTED, f"{where}: give a reason in UNTESTED"
            untested.add(key)
    assert untested == set(UNTESTED)
    for page, commands in RUN.items():
        written = [c for block in blocks(page) if block.language == "bash" for c in block.commands]
        assert [command for command in written if command in commands] == commands, page


@pytest.mark.parametrize("command", BENCHMARKS)
def test_command_of_a_benchmark_is_valid(command):
    check_command("", command)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_command_is_valid(page, command, tmp_path, monkeypatch):
    for block in blocks(page):
        if block.title:  # the command may name what is in it
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with modules_forgotten():
        check_command(page, command)


def check_command(page: str, command: str) -> None:
    """Checks the flags, configuration and overrides of a command line."""
    name, arguments = parse(command)
    if name == "test":
        return
    assert name in hooks().commands(), command
    flag_names = {flag.name for flag in hooks().command_flags(hooks().commands()[name])}
    overrides, reference = [], None
    for argument in arguments:
        flag, _, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            continue
        if flag.startswith("config."):
            overrides.append(argument)
            continue
        assert flag in flag_names or flag.removeprefix("no") in flag_names, (
            f"{name} has no flag --{flag}"
        )
        if flag == "config":
            reference = value
        if flag == "dataset":
            assert value in {*datasets.NAMES, *OWN_DATASETS}
    if overrides and reference is None:
        reference = config_of_workdir(page, arguments)
    if reference is not None:
        check_config(reference, overrides)


def parse(command: str) -> tuple[str, list[str]]:
    """(command, arguments) of `jaxtag X …`, `python -m jaxtag.X …` or `launch/local.sh X …`."""
    program, *arguments = shlex.split(command, comments=True)
    if program == "python":
        assert arguments[0] == "-m" and arguments[1].startswith("jaxtag."), command
        return arguments[1].removeprefix("jaxtag."), arguments[2:]
    if program == "launch/local.sh":
        script = (ROOT / "launch" / "local.sh").read_text(encoding="utf-8")
        while arguments[0].startswith("--"):
            assert f"{arguments[0].partition('=')[0]}=*)" in script, command
            arguments = arguments[1:]
    else:
        assert program == "jaxtag", f"{command}: bash blocks hold jaxtag's commands alone"
    return arguments[0], arguments[1:]


def config_of_workdir(page: str, arguments: list[str]) -> str:
    """The configuration that the page trains in the work directory of a command."""
    workdir = next(argument for argument in arguments if argument.startswith("--workdir="))
    for block in blocks(page):
        for command in block.commands if block.language == "bash" else ():
            name, command_arguments = parse(command)
            if name == "train" and workdir in command_arguments:
                return next(
                    w.partition("=")[2] for w in command_arguments if w.startswith("--config=")
                )
    raise AssertionError(f"{page} trains nothing in {workdir}")


def check_config(reference: str, overrides: list[str]) -> None:
    """Parses a configuration and its overrides as a command does."""
    values = absl_flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    argv = flags.prepare_arguments(["jaxtag", f"--config={reference}", *overrides])
    with mock.patch.object(sys, "argv", argv):  # ml_collections looks for overrides there
        values(argv)
    config = checks.check(holder.value)
    name = config.data.dataset
    own = {*datasets.NAMES, *OWN_DATASETS, "my_data:Noise"}
    assert name in own or names_shard_files(name)


@pytest.fixture
def example_folder(tmp_path, monkeypatch):
    """The current folder of the examples: images, tables, a home with data of one's own."""
    folder, home = tmp_path / "work", tmp_path / "home"
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)

    def draw(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.NEAREST).save(path, quality=95)

    for name in "abc":
        draw(folder / "photos" / f"{name}.jpg")
    (folder / "more").mkdir()
    draw(folder / "more" / "d.jpg")
    (folder / "tags.csv").write_text("file,tags\nmore/d.jpg,sea;sky\n")
    captions = "".join(f"{number:02}.jpg,a picture of {number}\n" for number in range(20))
    tags = "".join(
        f"{number:02}.jpg,{'sea;sky' if number % 2 else 'sky'}\n" for number in range(20)
    )
    for number in range(20):
        draw(home / "captions" / f"{number:02}.jpg")
        draw(home / "tags" / f"{number:02}.jpg")
        draw(home / "classes" / ("cat" if number % 2 else "dog") / f"{number:02}.jpg")
    (home / "captions" / "captions.csv").write_text("file,caption\n" + captions)
    (home / "tags" / "tags.csv").write_text("file,tags\n" + tags)
    results = [{"image_id": 1, "caption": "a cat sits"}, {"image_id": 2, "caption": "a dog"}]
    references = {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [{"id": n, **row} for n, row in enumerate(results)],
    }
    (folder / "RESULTS.json").write_text(json.dumps(results))
    (folder / "captions_val2014.json").write_text(json.dumps(references))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(str(folder))
    return folder


def add_run(page: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """Puts a trained captioner where a page has one."""
    if "runs/shapes" in PAGES[page]:
        shutil.copytree(request.getfixturevalue("tiny_run"), folder / "runs" / "shapes")


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow if "getting-started" in p else ()) for p in RUN],
)
def test_commands_run(page, example_folder, request):
    add_run(page, example_folder, request)
    for command in RUN[page]:
        name, arguments = parse(command)
        # As a shell does: words that begin with ~ are expanded, values of flags are not.
        done = call(name, *map(os.path.expanduser, arguments))
        assert done.status == 0, f"{command}: {done.err}"


@contextlib.contextmanager
def modules_forgotten():
    """Forgets the modules that are imported within, and the models that they register.

    Pages may have other modules under the same names.
    """
    modules, models = set(sys.modules), set(registry._MODELS)
    try:
        yield
    finally:
        for name in set(registry._MODELS) - models:
            del registry._MODELS[name]
        titles = {Path(block.title).stem for block in ALL_BLOCKS if block.title}
        for name in (set(sys.modules) - modules) & titles:
            del sys.modules[name]


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    "page", sorted({block.page for block in ALL_BLOCKS if block.language == "python"})
)
def test_python_blocks_run(page, example_folder, request):
    add_run(page, example_folder, request)
    namespace = {"__name__": f"documentation_{Path(page).stem}"}
    with modules_forgotten():
        for block in blocks(page):
            if block.language != "python":
                continue
            if block.title:
                Path(block.title).write_text(block.text, encoding="utf-8")
                continue
            code = compile("\n" * block.line + block.text, str(ROOT / page), "exec")
            exec(code, namespace)
