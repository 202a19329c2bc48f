"""Exports a model for programs without jaxtag: ONNX, StableHLO, Immich.

    python -m jaxtag.export --model=REF --format=onnx --output=DIR [--quantize=int8]
        [--dynamic_size]
    python -m jaxtag.export --model=REF --format=stablehlo --output=DIR [--platforms=cpu,cuda,tpu]
    python -m jaxtag.export --model=REF --format=immich --output=DIR

--model takes any REF (see jaxtag.annotate): a work directory, hf:owner/name, the name of a model
whose weights an installed package brings. DIR must be new, or empty. It gets the model (model.onnx,
or of a captioner encoder.onnx and decoder.onnx, a step with a cache; model.stablehlo);
jaxtag.json, with inputs, preprocessing, labels and thresholds; preprocessing.json; example.py, a
short program that takes images to tags, vectors or captions; and README.md, with the limits. Models
take images uint8 [batch, S, S, 3] and normalize them; the batch has any size. With --dynamic_size a
model whose images a ViT reads (DeiT, DINOv2, CLIP and SigLIP too) takes [batch, height, width, 3]
of any height and width, and interpolates its position embeddings as jaxtag does; pixels beyond a
whole number of patches are cut off. A captioner's images keep their size.

ONNX computes in float32; --quantize=int8 stores weights in 8 bits and quantizes activations as it
runs. StableHLO is one file for all platforms that are named, opened by jax.export.deserialize; a
captioner's has the whole search. The layout of Immich (visual/ and textual/model.onnx) is for
embedders and text-image models. Before DIR appears, its files are compared with jaxtag on random
inputs.
"""

from collections.abc import Callable
from pathlib import Path

from absl import flags

from jaxtag import cli
from jaxtag.errors import UsageError, did_you_mean
from jaxtag.export import folder, programs, stablehlo, verify
from jaxtag.inference import checkpoint, predictor
from jaxtag.inference.checkpoint import CheckpointOptions
from jaxtag.inference.predictor import Predictor
from jaxtag.storage.new_folder import new_folder

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("model", None, "REF of the model: a work directory, hf:owner/name, ….")
    flags.DEFINE_string("format", None, "onnx, stablehlo or immich.")
    flags.DEFINE_string("output", None, "Folder to write; new, or empty.")
    flags.DEFINE_string("quantize", None, "int8: quantize an ONNX model (dynamic quantization).")
    flags.DEFINE_bool(
        "dynamic_size", False, "Images of any height and width (ViT, in onnx and stablehlo)."
    )
    flags.DEFINE_list(
        "platforms", ["cpu", "cuda", "tpu"], "Of a StableHLO file: cpu, cuda, rocm, tpu."
    )
    flags.DEFINE_string(
        "backbone", None, "Architecture of weights that do not say it, of jaxtag.list_models()."
    )
    flags.DEFINE_list(
        "labels", [], "Names of the classes of a checkpoint: a,b,…, a file of them, or imagenet."
    )
    flags.DEFINE_string("step", "newest", "Checkpoint of a run: newest, best, or its step.")


def main(argv: list[str]) -> None:
    for name in ("model", "format", "output"):
        cli.require(name, " (see --help)")
    if FLAGS.format not in _FORMATS:
        hint = did_you_mean(FLAGS.format, _FORMATS)
        raise UsageError(f"--format={FLAGS.format}: must be one of {', '.join(_FORMATS)}{hint}")
    _check_flags()
    with new_folder(FLAGS.output, "--output", last=folder.DESCRIPTION) as output:
        options = CheckpointOptions(FLAGS.backbone, checkpoint.parse_labels(FLAGS.labels))
        model = predictor.load(FLAGS.model, step=FLAGS.step, options=options)
        outcome = _FORMATS[FLAGS.format](model, output)
    print(f"{model.config.model.backbone} as {FLAGS.format}: {FLAGS.output} ({outcome})")


def _check_flags() -> None:
    """Finds what is wrong before anything is loaded."""
    if FLAGS.quantize not in (None, "int8"):
        raise UsageError(f"--quantize={FLAGS.quantize}: must be int8")
    if FLAGS.quantize and FLAGS.format != "onnx":
        raise UsageError("--quantize goes with --format=onnx")
    if FLAGS.dynamic_size and FLAGS.format == "immich":
        raise UsageError("--dynamic_size goes with --format=onnx or stablehlo: Immich has one size")
    if FLAGS.format == "stablehlo":
        stablehlo.check(FLAGS.platforms)
        return
    verify.require_onnx(runtime=bool(FLAGS.quantize))


def _export_onnx(model: Predictor, output: Path) -> str:
    from jaxtag.export import onnx_files

    model = programs.in_float32(model)
    parts = programs.onnx_programs(model, FLAGS.dynamic_size)
    outcome = onnx_files.write(output, parts, quantize=bool(FLAGS.quantize))
    notes = [onnx_files.QUANTIZED] if FLAGS.quantize else []
    folder.write_description(output, model, "onnx", parts, ".onnx", notes)
    return outcome


def _export_stablehlo(model: Predictor, output: Path) -> str:
    program = programs.predict_program(model, FLAGS.dynamic_size)
    file = output / f"{program.name}.stablehlo"
    file.write_bytes(stablehlo.serialize(program, FLAGS.platforms))
    outcome = verify.check_stablehlo(program, file)
    notes = [f"For the platforms {', '.join(FLAGS.platforms)}."]
    folder.write_description(output, model, "stablehlo", [program], ".stablehlo", notes)
    return verify.describe(outcome)


def _export_immich(model: Predictor, output: Path) -> str:
    from jaxtag.export import immich

    return immich.write(output, programs.in_float32(model))


_FORMATS: dict[str, Callable[[Predictor, Path], str]] = {
    "onnx": _export_onnx,
    "stablehlo": _export_stablehlo,
    "immich": _export_immich,
}


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
