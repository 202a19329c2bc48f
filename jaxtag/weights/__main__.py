"""Weights of other libraries: torchvision, timm and transformers, as safetensors, both ways.

  python -m jaxtag.weights import --source=FILE_OR_FOLDER --model=resnet50 \\
      --output=FILE.safetensors [--num_classes=N] [--adapt=head,image_size,channels]
  python -m jaxtag.weights import --source=FOLDER --workdir=DIR [--length=N]
  python -m jaxtag.weights export --source=FILE.safetensors --library=timm --output=FILE_OR_FOLDER
  python -m jaxtag.weights export --workdir=RUN [--step=best] --library=transformers --output=DIR

`import` writes a file with jaxtag's parameter names, which also holds the model's name and its
preprocessing. With --workdir it makes a work directory, for jaxtag.annotate and jaxtag.evaluate,
from a captioner: a VisionEncoderDecoderModel of a ViT and a GPT-2, with its tokenizer and
preprocessing. `export` writes such a file, or the checkpoint of a run of jaxtag.train, with the
parameter names of another library. Pickled files (.bin, .pt, .pth) are refused: the message says
how to convert them.

From Python:

    model = jaxtag.create_model("resnet50", num_classes=1000)
    variables = jaxtag.weights.load("checkpoint.safetensors or folder", model)
    jaxtag.weights.save("resnet50.safetensors", model, variables, library="timm")
"""

import dataclasses
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
from absl import flags

from jaxtag import cli, models
from jaxtag.errors import UsageError
from jaxtag.models import registry
from jaxtag.weights import safetensors_io
from jaxtag.weights.loader import count_classes, load
from jaxtag.weights.preprocessing import load_preprocessing, read_notes
from jaxtag.weights.saver import save


def define_flags() -> None:
    flags.DEFINE_string("source", None, "safetensors: a file, or a folder of one or its shards.")
    flags.DEFINE_string("model", None, "Name of a model, as of jaxtag.models.list_models().")
    flags.DEFINE_string("output", None, "File to write, *.safetensors, or a folder (export).")
    flags.DEFINE_string("library", None, "Whose names to write: torchvision, timm, transformers.")
    flags.DEFINE_integer("num_classes", None, "Classes; by default as many as the file has.")
    flags.DEFINE_integer("image_size", None, "Pixels; by default those of the model's name.")
    flags.DEFINE_integer("channels", 3, "Number of input channels.")
    flags.DEFINE_list("adapt", [], "What may differ: head, image_size, channels.")
    flags.DEFINE_string("workdir", None, "Folder of a run: to make of a captioner, or to export.")
    flags.DEFINE_integer("length", None, "Tokens of a caption; by default as the files say.")
    flags.DEFINE_string("step", "newest", "Checkpoint of the run: newest, best, or its step.")


def main(argv: list[str]) -> None:
    _SUBCOMMANDS[argv[0]](flags.FLAGS)


def _import(args: flags.FlagValues) -> None:
    if args.workdir:
        _import_captioner(args)
        return
    _require(args, "source", "model", "output")
    if not args.output.endswith(".safetensors"):
        raise UsageError(f"--output={args.output}: must be a file *.safetensors")
    given_fields = _fields_of_flags(args, args.model)
    fields = _fields_of_source(args) | given_fields
    model = _create(args.model, fields)
    variables = load(
        args.source,
        model,
        adapt=args.adapt,
        channels=args.channels,
        image_size=args.image_size or registry.get_preprocessing(args.model).image_size,
    )
    preprocessing = load_preprocessing(args.source) or registry.get_preprocessing(args.model)
    if args.image_size:
        preprocessing = dataclasses.replace(preprocessing, image_size=args.image_size)
    notes = {
        "model": args.model,
        "fields": fields,
        "channels": args.channels,
        "preprocessing": dataclasses.asdict(preprocessing),
    }
    save(args.output, model, variables, notes=notes)
    print(f"{args.model} with {fields.get('num_classes', 0)} classes: {args.output}")


def _import_captioner(args: flags.FlagValues) -> None:
    from jaxtag.inference import hf_captioner
    from jaxtag.tasks.caption.config import CaptionConfig

    _require(args, "source")
    config = hf_captioner.import_captioner(args.source, Path(args.workdir), args.length)
    max_length = cast(CaptionConfig, config.task).max_length
    print(f"a captioner of at most {max_length} tokens: {args.workdir}")


def _export(args: flags.FlagValues) -> None:
    _require(args, "library", "output")
    if bool(args.source) == bool(args.workdir):
        raise UsageError("give either --source=FILE of jaxtag's, or --workdir of a run")
    model, variables, size = _load_run(args) if args.workdir else _load_file(args)
    save(args.output, model, variables, library=args.library, image_size=size)
    print(f"{type(model).__name__} with the names of {args.library}: {args.output}")


def _load_run(args: flags.FlagValues) -> tuple[nn.Module, Any, int]:
    from jaxtag.inference import predictor

    run = predictor.load(Path(args.workdir), step=args.step)
    return run.task.model, run.variables, run.config.data.image_size


def _load_file(args: flags.FlagValues) -> tuple[nn.Module, Any, int]:
    notes = read_notes(safetensors_io.Tensors(args.source))
    name = args.model or notes.get("model")
    if name is None:
        raise UsageError(f"{args.source} does not name its model: give --model=NAME")
    model = _create(name, notes.get("fields", {}) | _fields_of_flags(args, name))
    noted_size = notes.get("preprocessing", {}).get("image_size")
    size = args.image_size or noted_size or registry.get_preprocessing(name).image_size
    variables = load(
        args.source,
        model,
        adapt=args.adapt,
        channels=notes.get("channels", args.channels),
        image_size=size,
    )
    return model, variables, size


def _fields_of_flags(args: flags.FlagValues, model: str) -> dict[str, Any]:
    _create(model, {})  # reports an unknown name
    names = registry.field_names(model)
    fields = {"num_classes": args.num_classes, "image_size": args.image_size}
    return {name: value for name, value in fields.items() if value is not None and name in names}


def _fields_of_source(args: flags.FlagValues) -> dict[str, Any]:
    """The model's fields by the files: its classes, and the epsilon of a ViT's norms."""
    fields: dict[str, Any] = {}
    num_classes = count_classes(
        safetensors_io.Tensors(args.source), _create(args.model, {"num_classes": 1})
    )
    if num_classes:
        fields["num_classes"] = num_classes
    config = safetensors_io.read_json(safetensors_io.folder_of(args.source) / "config.json")
    if "layer_norm_eps" in config and "norm_eps" in registry.field_names(args.model):
        fields["norm_eps"] = config["layer_norm_eps"]
    return fields


def _create(name: str, fields: dict[str, Any]) -> nn.Module:
    try:
        return models.create_model(name, **fields)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--model: {error}") from error


def _require(args: flags.FlagValues, *names: str) -> None:
    missing = [f"--{name}" for name in names if getattr(args, name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} must be given (see --help)")


_SUBCOMMANDS = {"import": _import, "export": _export}


def run() -> None:
    cli.run(main, define_flags, subcommands=tuple(_SUBCOMMANDS))


if __name__ == "__main__":
    run()
