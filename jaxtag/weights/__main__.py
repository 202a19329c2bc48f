"""Weights of other libraries: torchvision, timm and transformers, as safetensors, both ways.

  python -m jaxtag.weights import --source=FILE_OR_FOLDER --model=resnet50 \\
      --output=FILE.safetensors [--num_classes=N] [--adapt=head,image_size,channels]
  python -m jaxtag.weights import --source=FOLDER --workdir=DIR [--length=N]
  python -m jaxtag.weights export --source=FILE.safetensors --library=timm --output=FILE_OR_FOLDER
  python -m jaxtag.weights export --workdir=RUN [--step=best] --library=transformers --output=DIR

`import` writes a file of jaxtag's with our names; it also holds the model's name and how it wants
its pictures. With --workdir it makes a work directory, for jaxtag.annotate and jaxtag.evaluate, of
a captioner: a VisionEncoderDecoderModel of a ViT and a GPT-2, with its tokenizer and preprocessing.
`export` writes such a file, or what a run of jaxtag.train has learnt, with the names
of another library. Pickled files (.bin, .pt, .pth) are refused: the message says how to convert.

From Python:

    from jaxtag import models, weights
    model = models.create("resnet50", num_classes=1000)
    variables = weights.load("checkpoint.safetensors or folder", model)
    weights.save("resnet50.safetensors", model, variables, library="timm")
"""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
from absl import flags

from jaxtag import cli, models
from jaxtag.errors import UsageError
from jaxtag.models import registry
from jaxtag.weights import safetensors_io
from jaxtag.weights.loader import classes_in, load
from jaxtag.weights.preprocessing import own_notes, preprocessing
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


def _import(given: flags.FlagValues) -> None:
    if given.workdir:
        _import_captioner(given)
        return
    _require(given, "source", "model", "output")
    if not given.output.endswith(".safetensors"):
        raise UsageError(f"--output={given.output}: must be a file *.safetensors")
    asked = _fields_of_flags(given)
    fields = _fields_of_source(given) | asked
    model = _create(given.model, fields)
    variables = load(
        given.source,
        model,
        adapt=given.adapt,
        channels=given.channels,
        image_size=_image_size(given),
    )
    pictures = preprocessing(given.source) or registry.get_preprocessing(given.model)
    if given.image_size:
        pictures = dataclasses.replace(pictures, image_size=given.image_size)
    notes = {
        "model": given.model,
        "fields": fields,
        "channels": given.channels,
        "preprocessing": dataclasses.asdict(pictures),
    }
    save(given.output, model, variables, notes=notes)
    print(f"{given.model} with {fields.get('num_classes', 0)} classes: {given.output}")


def _import_captioner(given: flags.FlagValues) -> None:
    from jaxtag.inference import hf_captioner

    _require(given, "source")
    config = hf_captioner.import_captioner(given.source, Path(given.workdir), given.length)
    print(f"a captioner of {config.task.max_length} tokens at most: {given.workdir}")


def _export(given: flags.FlagValues) -> None:
    _require(given, "library", "output")
    if bool(given.source) == bool(given.workdir):
        raise UsageError("give either --source=FILE of jaxtag's, or --workdir of a run")
    model, variables, size = _of_run(given) if given.workdir else _of_file(given)
    save(given.output, model, variables, library=given.library, image_size=size)
    print(f"{type(model).__name__} with the names of {given.library}: {given.output}")


def _of_run(given: flags.FlagValues) -> tuple[nn.Module, Any, int]:
    from jaxtag.inference import predictor

    found = predictor.load(Path(given.workdir), step=given.step)
    return found.task.model, found.variables, found.config.data.image_size


def _of_file(given: flags.FlagValues) -> tuple[nn.Module, Any, int]:
    notes = own_notes(safetensors_io.Tensors(given.source))
    given.model = given.model or notes.get("model")
    if given.model is None:
        raise UsageError(f"{given.source} does not say of which model it is: give --model=NAME")
    model = _create(given.model, notes.get("fields", {}) | _fields_of_flags(given))
    noted = notes.get("preprocessing", {}).get("image_size")
    size = given.image_size or noted or _image_size(given)
    variables = load(
        given.source,
        model,
        adapt=given.adapt,
        channels=notes.get("channels", given.channels),
        image_size=size,
    )
    return model, variables, size


def _fields_of_flags(given: flags.FlagValues) -> dict[str, Any]:
    _create(given.model, {})  # tells of an unknown name
    known = registry.field_names(given.model)
    asked = {"num_classes": given.num_classes, "image_size": given.image_size}
    return {name: value for name, value in asked.items() if value is not None and name in known}


def _fields_of_source(given: flags.FlagValues) -> dict[str, Any]:
    """What the files say of the model: its classes, and the epsilon of a ViT's norms."""
    fields = {}
    classes = classes_in(
        safetensors_io.Tensors(given.source), _create(given.model, {"num_classes": 1})
    )
    if classes:
        fields["num_classes"] = classes
    config = safetensors_io.read_json(safetensors_io.folder_of(given.source) / "config.json")
    if "layer_norm_eps" in config and "norm_eps" in registry.field_names(given.model):
        fields["norm_eps"] = config["layer_norm_eps"]
    return fields


def _create(name: str, fields: dict[str, Any]) -> nn.Module:
    try:
        return models.create_model(name, **fields)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--model: {error}") from error


def _image_size(given: flags.FlagValues) -> int:
    return given.image_size or registry.get_preprocessing(given.model).image_size


def _require(given: flags.FlagValues, *names: str) -> None:
    missing = [f"--{name}" for name in names if getattr(given, name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} must be given (see --help)")


_SUBCOMMANDS = {"import": _import, "export": _export}


def run() -> None:
    cli.run(main, define_flags, subcommands=tuple(_SUBCOMMANDS))


if __name__ == "__main__":
    run()
