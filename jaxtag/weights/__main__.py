"""Imports and exports weights of torchvision, timm and transformers.

  python -m jaxtag.weights import --source=REF --model=resnet50 \\
      --output=FILE.safetensors [--num_classes=N] [--adapt=head,image_size,channels]
  python -m jaxtag.weights import --source=REF --workdir=DIR [--max_length=N]
  python -m jaxtag.weights export --source=FILE.safetensors --library=timm --output=FILE_OR_FOLDER
  python -m jaxtag.weights export --workdir=RUN [--step=best] --library=transformers --output=DIR
  python -m jaxtag.weights export --workdir=RUN --hub_folder=DIR [--push=owner/name]

`import` writes a file with jaxtag's parameter names; it also holds the model's name and its
preprocessing. With --workdir it makes a work directory, for jaxtag.annotate and jaxtag.evaluate:
of a captioner of transformers (a ViT and a GPT-2, BLIP, GIT, with its tokenizer), of a CLIP or
SigLIP, or of a classifier that names its classes (transformers' id2label, timm's label_names,
--labels). `export` writes such a file, or the model that a run of jaxtag.train has trained, with
the parameter names of another library; a folder also gets what the library wants beside them:
labels, preprocessing, the tokenizer. A source is any REF (see jaxtag.annotate). Of .bin, .pt and
.pth files tensors are read, and nothing is executed. --hub_folder gets safetensors, the config.json
of timm or transformers, preprocessing, labels and a model card; --push uploads it.

From Python:

    model = jaxtag.create_model("resnet50", num_classes=1000)
    variables = jaxtag.weights.load("checkpoint.safetensors or folder", model)
    jaxtag.weights.save("resnet50.safetensors", model, variables, library="timm")
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
from absl import flags

from jaxtag import cli, models
from jaxtag.errors import UsageError
from jaxtag.models import registry
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.storage.paths import make_path
from jaxtag.tasks.caption.config import CaptionConfig
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.weights.hf_captioners import CaptionSettings
from jaxtag.weights.loader import count_classes, described_fields, load
from jaxtag.weights.preprocessing import from_json, load_preprocessing, read_notes
from jaxtag.weights.reference import resolve
from jaxtag.weights.saver import save
from jaxtag.weights.tensors import Tensors

if TYPE_CHECKING:
    from jaxtag.inference.predictor import Predictor

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("source", None, "REF of weights: a file, a folder, hf:owner/name, ….")
    flags.DEFINE_string("model", None, "Name of a model of jaxtag.models.list_models().")
    flags.DEFINE_string("output", None, "File to write, *.safetensors, or a folder (export).")
    flags.DEFINE_string(
        "library", None, "Names to write: torchvision, timm, transformers or open_clip."
    )
    flags.DEFINE_integer("num_classes", None, "Number of classes; by default that of the file.")
    flags.DEFINE_integer("image_size", None, "Pixels; by default those of the model's name.")
    flags.DEFINE_integer("channels", 3, "Number of input channels.")
    flags.DEFINE_list("adapt", [], "What may differ: head, image_size, channels.")
    flags.DEFINE_string("workdir", None, "Folder of a run: to create (import), or to export.")
    flags.DEFINE_list(
        "labels", [], "Names of the classes, where --source has none: a,b,…, a file, or imagenet."
    )
    flags.DEFINE_integer("max_length", None, "Maximum tokens of a caption; by default the files'.")
    cli.define_alias("length", "max_length")
    flags.DEFINE_string(
        "hub_folder",
        None,
        "Folder to write (export): what the Hugging Face Hub wants of a run's model.",
    )
    flags.DEFINE_string("push", None, "Repository to upload --hub_folder to, owner/name.")
    flags.DEFINE_string("step", "newest", "Checkpoint of the run: newest, best, or its step.")


def main(argv: list[str]) -> None:
    _SUBCOMMANDS[argv[0]]()


def _import() -> None:
    if FLAGS.workdir:
        _import_run()
        return
    _require("source", "model", "output")
    if not FLAGS.output.endswith(".safetensors"):
        raise UsageError(f"--output={FLAGS.output}: must be a file *.safetensors")
    model_fields = _fields_of_flags(FLAGS.model)
    fields = _fields_of_source() | model_fields
    model = _create(FLAGS.model, fields)
    variables = load(
        FLAGS.source,
        model,
        adapt=FLAGS.adapt,
        channels=FLAGS.channels,
        image_size=_image_size(FLAGS.model),
    )
    image_preprocessing = load_preprocessing(FLAGS.source) or registry.get_preprocessing(
        FLAGS.model
    )
    if FLAGS.image_size:
        image_preprocessing = dataclasses.replace(image_preprocessing, image_size=FLAGS.image_size)
    notes = {
        "model": FLAGS.model,
        "fields": fields,
        "channels": FLAGS.channels,
        "preprocessing": dataclasses.asdict(image_preprocessing),
    }
    save(FLAGS.output, model, variables, notes=notes)
    print(f"{FLAGS.model} with {fields.get('num_classes', 0)} classes: {FLAGS.output}")


def _import_run() -> None:
    """Makes a work directory of a captioner, an image-text model, or a model that names labels."""
    from jaxtag.inference import checkpoint

    _require("source")
    workdir = make_path(FLAGS.workdir, "--workdir")
    options = checkpoint.CheckpointOptions(FLAGS.model, checkpoint.parse_labels(FLAGS.labels))
    config = checkpoint.import_checkpoint(FLAGS.source, workdir, options, FLAGS.max_length)
    if isinstance(config.task, CaptionConfig):
        print(f"a captioner of {config.task.max_length} tokens at most: {workdir}")
        return
    kinds = {"tag": "tagger", "match": "model of images and texts"}
    kind = kinds.get(config.task.TASK, "classifier")
    print(f"a {kind} with {config.model.backbone} of {FLAGS.source}: {workdir}")


def _export() -> None:
    if FLAGS.hub_folder:
        _publish()
        return
    _require("library", "output")
    if bool(FLAGS.source) == bool(FLAGS.workdir):
        raise UsageError("give either --source=FILE of jaxtag's, or --workdir of a run")
    model, variables, details = _load_run() if FLAGS.workdir else _load_file()
    save(FLAGS.output, model, variables, library=FLAGS.library, **details)
    print(f"{type(model).__name__} with the names of {FLAGS.library}: {FLAGS.output}")


def _publish() -> None:
    """Writes the folder of a run's model for the Hub, and uploads it."""
    from jaxtag.weights import publish

    _require("workdir")
    folder = Path(FLAGS.hub_folder)
    trained, details = _load_trained()
    library = publish.write_folder(folder, trained, details)
    print(f"{trained.config.model.backbone} with the names of {library}: {folder}")
    if FLAGS.push:
        print(publish.push(folder, FLAGS.push))


def _load_run() -> tuple[nn.Module, Any, dict[str, Any]]:
    """(model, variables, further arguments of `save`) of --workdir."""
    trained, details = _load_trained()
    return trained.task.model, trained.variables, details


def _load_trained() -> tuple["Predictor", dict[str, Any]]:
    """(the model of --workdir, further arguments of `save`)."""
    from jaxtag.inference import predictor

    trained = predictor.load(FLAGS.workdir, step=FLAGS.step)
    data, labels = trained.config.data, trained.task.label_names
    whole = data.crop_scale == (1.0, 1.0) or data.eval_crop_pct is None
    details: dict[str, Any] = {
        "image_size": data.image_size,
        "labels": labels and labels.names
        if getattr(trained.task.model, "num_classes", 0)
        else None,
        "multi_label": trained.task.selects_tags,
        "preprocessing": Preprocessing(
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            interpolation=data.eval_interpolation,
            crop=1.0 if whole else data.eval_crop_pct or 1.0,
            squash=data.eval_fit == "squash" or (whole and data.eval_fit == "crop"),
            pad=data.eval_fit == "pad",
        ),
    }
    if isinstance(trained.config.task, CaptionConfig):
        details["captions"] = _caption_settings(trained)
    elif isinstance(trained.config.task, MatchConfig):
        details["tokenizer"] = trained.vocabulary
    return trained, details


def _caption_settings(trained: "Predictor") -> CaptionSettings:
    task = trained.config.task
    assert isinstance(task, CaptionConfig)
    decoding = task.decoding
    return CaptionSettings(
        trained.vocabulary,
        task.max_length,
        decoding.beam_size if decoding.method == "beam" else 1,
        decoding.length_penalty,
        decoding.early_stopping,
    )


def _load_file() -> tuple[nn.Module, Any, dict[str, Any]]:
    """(model, variables, further arguments of `save`) of --source, a file with jaxtag's names."""
    notes = read_notes(Tensors(resolve(FLAGS.source).path))
    name = FLAGS.model or notes.get("model")
    if name is None:
        raise UsageError(f"{FLAGS.source} does not say of which model it is: give --model=NAME")
    model = _create(name, notes.get("fields", {}) | _fields_of_flags(name))
    size_of_file = notes.get("preprocessing", {}).get("image_size")
    size = FLAGS.image_size or size_of_file or _image_size(name)
    variables = load(
        FLAGS.source,
        model,
        adapt=FLAGS.adapt,
        channels=notes.get("channels", FLAGS.channels),
        image_size=size,
    )
    stored = notes.get("preprocessing")
    details = {"image_size": size, "preprocessing": from_json(stored) if stored else None}
    return model, variables, details


def _fields_of_flags(name: str) -> dict[str, Any]:
    """The fields of the model that flags set, as far as it has them."""
    _create(name, {})  # raises UsageError for an unknown name
    names = registry.field_names(name)
    values = {"num_classes": FLAGS.num_classes, "image_size": FLAGS.image_size}
    return {name: value for name, value in values.items() if value is not None and name in names}


def _fields_of_source() -> dict[str, Any]:
    """The fields that the files determine: of functions (`described_fields`), and the classes."""
    fields = described_fields(FLAGS.source, FLAGS.model)
    tensors = Tensors(resolve(FLAGS.source).path)
    num_classes = count_classes(tensors, _create(FLAGS.model, {"num_classes": 1}))
    return fields | ({"num_classes": num_classes} if num_classes else {})


def _create(name: str, fields: dict[str, Any]) -> nn.Module:
    try:
        return models.create_model(name, **fields)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--model: {error}") from error


def _image_size(name: str) -> int:
    return FLAGS.image_size or registry.get_preprocessing(name).image_size


def _require(*names: str) -> None:
    missing = [f"--{name}" for name in names if FLAGS[name].value is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} must be given (see --help)")


_SUBCOMMANDS = {"import": _import, "export": _export}


def run() -> None:
    cli.run(main, define_flags, subcommands=tuple(_SUBCOMMANDS))


if __name__ == "__main__":
    run()
