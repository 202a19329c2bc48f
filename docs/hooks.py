"""Pages that mkdocs generates from the source: commands, configuration fields, API reference.

Everything is read with `ast` and `tokenize`: nothing of jaxtag is imported, nothing is downloaded.
mkdocs calls `on_config` and `on_files`; the tests use the functions that read the source.
"""

import ast
import dataclasses
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxtag"


@dataclasses.dataclass(frozen=True)
class Flag:
    """A command-line flag: its kind is `string`, `bool`, `integer`, `float`, `list` or `enum`."""

    name: str
    kind: str
    default: str
    help: str


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a configuration dataclass; a runtime field may change when a run is resumed."""

    name: str
    type: str
    default: str
    comment: str
    runtime: bool


@dataclasses.dataclass(frozen=True)
class Section:
    """A configuration dataclass: `prefix` is the dotted name of the section, with its last dot."""

    prefix: str
    class_name: str
    docstring: str
    fields: tuple[Field, ...]


# Reading the commands


def commands() -> dict[str, Path]:
    """The commands by name: modules of jaxtag that define flags."""
    paths = {path.stem: path for path in PACKAGE.glob("*.py")}
    paths |= {path.parent.name: path for path in PACKAGE.glob("*/__main__.py")}
    return {
        name: path
        for name, path in sorted(paths.items())
        if _function(_tree(path), "define_flags") is not None
    }


def command_flags(path: Path) -> list[Flag]:
    """The flags of a command in order, with those that functions of jaxtag define for it."""
    return list(_flags_of(path, "define_flags"))


def _flags_of(path: Path, function: str) -> Iterator[Flag]:
    """The flags that a function of a file defines, aliases left out."""
    tree = _tree(path)
    root = _function(tree, function)
    if root is None:
        return
    imported = _imports(tree)
    calls = (node for node in ast.walk(root) if isinstance(node, ast.Call))
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        owner, _, name = ast.unparse(call.func).rpartition(".")
        if name == "DEFINE_config_file":
            yield Flag(ast.literal_eval(call.args[0]), "config", "None", _text(call.args[2]))
        elif name == "define_optional_value":
            yield Flag(ast.literal_eval(call.args[0]), "string", "None", _text(call.args[2]))
        elif name.startswith("DEFINE_") and name != "DEFINE_alias":
            yield _flag(call)
        elif owner in imported and name.startswith("define"):
            yield from _flags_of(_file_of(imported[owner]), name)
        elif not owner and name.startswith(("define", "_define")):
            yield from _flags_of(path, name)


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return next((node for node in functions if node.name == name), None)


def _flag(call: ast.Call) -> Flag:
    """The flag of a call of absl's DEFINE_…."""
    kind = ast.unparse(call.func).rpartition("DEFINE_")[2]
    arguments = list(call.args) + [item.value for item in call.keywords if item.arg == "default"]
    kind = {"boolean": "bool", "multi_string": "list"}.get(kind, kind)
    by_keyword = {item.arg: item.value for item in call.keywords}
    text = by_keyword.get("help")
    if text is None:
        position = 3 if kind == "enum" else 2
        text = arguments[position] if len(arguments) > position else None
    meaning = _text(text)
    if kind == "enum" and isinstance(arguments[2], ast.List | ast.Tuple):
        meaning += f" One of {', '.join(ast.literal_eval(arguments[2]))}."
    return Flag(ast.literal_eval(arguments[0]), kind, ast.unparse(arguments[1]), meaning)


def _text(node: ast.AST | None) -> str:
    """The text of a string expression; what is computed stands as {code}."""
    if node is None:
        return ""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    return "{" + ast.unparse(node) + "}"


def _imports(tree: ast.AST) -> dict[str, str]:
    """Names that a file imports from jaxtag, as dotted names."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxtag":
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname and alias.name.startswith("jaxtag."):
                    names[alias.asname] = alias.name
    return names


def _file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def command_page(name: str, path: Path) -> str:
    """Markdown of a command: its docstring and a table of its flags."""
    docstring = ast.get_docstring(_tree(path)) or ""
    first, _, rest = docstring.partition("\n\n")
    lines = [f"# {name}", "", f"{escape(first)}", ""]
    lines += [*_prose(rest), "", "## Flags", ""]
    flags = command_flags(path)
    lines += ["| flag | type | default | meaning |", "|---|---|---|---|"]
    for flag in flags:
        default = "" if flag.default in ("None", "[]") else f"`{_cell(flag.default)}`"
        lines.append(f"| `--{flag.name}` | {flag.kind} | {default} | {_cell(escape(flag.help))} |")
    if any(flag.name == "config" for flag in flags):
        lines += [
            "",
            "Every field of the [configuration](../configuration/index.md) is a flag too:",
        ]
        lines += ["`--config.FIELD=VALUE`."]
    lines += ["", f"`jaxtag {name} --help` prints the same text.", ""]
    return "\n".join(lines)


def _prose(text: str) -> list[str]:
    """Paragraphs of a docstring; indented ones become blocks of code."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("  "):
            lines += ["```text", textwrap.dedent(paragraph), "```", ""]
        elif paragraph:
            lines += [escape(paragraph), ""]
    return lines


def escape(text: str) -> str:
    """Text of a docstring as Markdown: what would be markup outside of code is escaped."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*_<>\[\]{}])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# Reading the configuration


def sections() -> list[Section]:
    """All sections of the configuration, from the sources of its dataclasses."""
    classes = _dataclasses(PACKAGE / "config" / "schema.py")
    found = [_section("", classes["Config"])]
    for item in found[0].fields:
        if item.type in classes and item.name != "task":
            found += _with_subsections(f"{item.name}.", item.type, classes)
    for path in sorted((PACKAGE / "tasks").glob("*/config.py")):
        of_task = _dataclasses(path)
        for name, (node, _) in of_task.items():
            if any("TaskConfig" in ast.unparse(base) for base in node.bases):
                found += _with_subsections("task.", name, of_task)
    return found


def _with_subsections(prefix: str, name: str, classes: dict[str, Any]) -> list[Section]:
    section = _section(prefix, classes[name])
    found = [section]
    for item in section.fields:
        if item.type in classes:
            found += _with_subsections(f"{prefix}{item.name}.", item.type, classes)
    return found


def _dataclasses(path: Path) -> dict[str, tuple[ast.ClassDef, dict[int, str]]]:
    """Dataclasses of a file by name, each with the comments of the file by line."""
    comments = {}
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = (token.string.lstrip("# "), token.line.lstrip()[0] == "#")
    return {
        node.name: (node, comments)
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        and any("dataclass" in ast.unparse(item) for item in node.decorator_list)
    }


def _section(prefix: str, source: tuple[ast.ClassDef, dict[int, Any]]) -> Section:
    node, comments = source
    fields = []
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or "ClassVar" in ast.unparse(item.annotation):
            continue
        default, runtime = _default(item.value)
        fields.append(
            Field(
                name=item.target.id,
                type=ast.unparse(item.annotation),
                default=default,
                comment=_comment(item, comments),
                runtime=runtime,
            )
        )
    return Section(prefix, node.name, ast.get_docstring(node) or "", tuple(fields))


def _comment(item: ast.AnnAssign, comments: dict[int, Any]) -> str:
    """The comment at the end of a field's lines, or else the block of comments above it."""
    for line in range(item.lineno, (item.end_lineno or item.lineno) + 1):
        if line in comments:
            return comments[line][0]
    above, line = [], item.lineno - 1
    while line in comments and comments[line][1]:
        above.append(comments[line][0])
        line -= 1
    return " ".join(reversed(above))


def _default(value: ast.expr | None) -> tuple[str, bool]:
    """(The default as text, whether the field is a runtime field)."""
    if value is None:
        return "", False
    if isinstance(value, ast.Call):
        name = ast.unparse(value.func)
        if name.endswith("runtime") and value.args:
            return ast.unparse(value.args[0]), True
        if name.endswith("field"):
            by_keyword = {item.arg: item.value for item in value.keywords}
            if "default" in by_keyword:
                return ast.unparse(by_keyword["default"]), False
            factory = ast.unparse(by_keyword["default_factory"])
            return {"dict": "{}", "_no_kwargs": "{}"}.get(factory, ""), False
    return ast.unparse(value), False


def configuration_page() -> str:
    """Markdown of all configuration fields, a table for each section."""
    lines = [
        "# Configuration",
        "",
        "A configuration is a `jaxtag.Config`: dataclasses, checked by type and by name. A file of",
        "`configs/` returns one from `get_config`; any field can be set on the command line as",
        "`--config.FIELD=VALUE`. Fields marked ↻ do not change what is trained, and may",
        "differ when a run is resumed. [Experiments](experiments.md) lists the configurations that",
        "come with jaxtag.",
        "",
    ]
    for section in sections():
        title = section.prefix.rstrip(".") or "Top level"
        if section.prefix.startswith("task."):
            title += f" ({section.class_name})"
        lines += [f"## {title}", "", f"`{section.class_name}`: {escape(_first(section.docstring))}"]
        lines += ["", "| field | type | default | meaning |", "|---|---|---|---|"]
        nested = {other.class_name for other in sections()}
        for item in section.fields:
            if item.type in nested or item.type == "TaskConfig":
                continue
            mark = " ↻" if item.runtime else ""
            default = f"`{_cell(item.default)}`" if item.default else ""
            lines.append(
                f"| `{section.prefix}{item.name}`{mark} | `{_cell(item.type)}` | {default} "
                f"| {_cell(escape(item.comment))} |"
            )
        rest = section.docstring.partition("\n\n")[2]
        if rest and "Attributes:" not in rest:
            lines += ["", escape(rest)]
        lines += [""]
    return "\n".join(lines)


def experiments_page() -> str:
    """Markdown of the configurations that jaxtag has, by the docstrings of their files."""
    lines = ["# Experiments", "", "The names that `--config=NAME` takes.", ""]
    for path in sorted((ROOT / "configs").glob("*.py")):
        if path.stem == "__init__":
            continue
        docstring = ast.get_docstring(_tree(path)) or ""
        first, _, rest = docstring.partition("\n\n")
        lines += [f"## {path.stem}", "", escape(first), "", *_prose(rest)]
    return "\n".join(lines)


def _first(docstring: str) -> str:
    return docstring.partition("\n\n")[0]


# The API reference


def api_pages() -> dict[str, str]:
    """Markdown of the API by page: one page for each package, one for what jaxtag offers itself."""
    pages = {}
    for path in sorted(PACKAGE.iterdir()):
        if path.is_symlink() or not (path / "__init__.py").is_file():
            continue
        modules = sorted(
            ".".join(part.relative_to(ROOT).with_suffix("").parts)
            for part in path.rglob("*.py")
            if not part.name.startswith("_")
        )
        package = f"jaxtag.{path.name}"
        summary = _first(ast.get_docstring(_tree(path / "__init__.py")) or "")
        lines = [f"# {package}", "", escape(summary), ""]
        for module in modules:
            lines += [f"::: {module}", "    options:", "      heading_level: 2", ""]
        pages[path.name] = "\n".join(lines)
    return pages


def top_level_page() -> str:
    """Markdown of what `import jaxtag` offers."""
    lines = ["# jaxtag", "", "What `import jaxtag` offers.", ""]
    for module in ("api", "registry", "errors"):
        if (PACKAGE / f"{module}.py").is_file():
            lines += [f"::: jaxtag.{module}", "    options:", "      heading_level: 2", ""]
    return "\n".join(lines)


# mkdocs

_OVERVIEWS = {"commands": "overview", "configuration": "index", "api": "index"}


def pages() -> dict[str, str]:
    """All generated pages: {path below docs/: Markdown}."""
    listing = ["# Commands", ""]
    listing += ["Each runs as `jaxtag NAME …` and as `python -m jaxtag.NAME …`.", ""]
    listing += ["| command | what it does |", "|---|---|"]
    made = {}
    for name, path in commands().items():
        summary = _first(ast.get_docstring(_tree(path)) or "")
        listing.append(f"| [{name}]({name}.md) | {_cell(escape(summary))} |")
        made[f"commands/{name}.md"] = command_page(name, path)
    made["commands/overview.md"] = "\n".join([*listing, ""])
    made["configuration/index.md"] = configuration_page()
    made["configuration/experiments.md"] = experiments_page()
    made["api/index.md"] = top_level_page()
    made |= {f"api/{name}.md": page for name, page in api_pages().items()}
    made["changelog.md"] = _changelog()
    return made


def _changelog() -> str:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return text.replace("](docs/", "](")


def on_config(config: Any) -> Any:
    """Fills the generated pages into the navigation."""
    parts: dict[str, list[Any]] = {folder: [] for folder in _OVERVIEWS}
    for path in pages():
        folder, _, name = path.rpartition("/")
        if folder in parts:
            title = name.removesuffix(".md")
            overview = title == _OVERVIEWS[folder]
            parts[folder].append(path if overview else {title: path})
    for items in parts.values():
        items.sort(key=lambda item: (not isinstance(item, str), str(item)))
    for entry in config["nav"]:
        for title, items in entry.items():
            if isinstance(items, list) and len(items) == 1 and items[0] in parts:
                entry[title] = parts[items[0]]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    from mkdocs.structure.files import File

    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files
