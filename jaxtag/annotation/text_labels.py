"""Tags and classes that are named when images are annotated, for models of images and texts."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from jaxtag import datasets
from jaxtag.annotation.names import read_synonyms
from jaxtag.data import files
from jaxtag.data.sources import Source
from jaxtag.errors import UsageError, UserError, did_you_mean, printable
from jaxtag.inference import features, zero_shot
from jaxtag.inference.predictor import Predictor
from jaxtag.models.image_text import ImageText
from jaxtag.tasks.evaluator import Evaluator
from jaxtag.tasks.tag.calibration import TagCalibration, calibrated_scores
from jaxtag.tasks.tag.evaluation import TagEvaluation
from jaxtag.tasks.tag.task import TagTask
from jaxtag.training import run_data

FLAGS = flags.FLAGS
_OTHERS_THRESHOLD = 0.5  # of tags that the data set of a calibration lacks
_BACKGROUND_RATE = 0.01  # of the images of a background that a threshold lets pass


@dataclasses.dataclass(frozen=True)
class CalibrationData:
    """A prepared data set with tags, by which scores become probabilities.

    Attributes:
        dataset: its name.
        split: of it.
        data_dir: where data sets are kept.
    """

    dataset: str
    split: str
    data_dir: str | None


@dataclasses.dataclass(frozen=True)
class TextLabels:
    """Names for a model of images and texts.

    Attributes:
        names: of the tags or classes.
        prompts: texts with {} for a name.
        synonyms: name -> other words for it, in any language that the model knows.
        calibration: for a probability and a threshold of each tag; None for the model's own scores.
        background: images of all kinds, without labels: a threshold for each tag, which few of them
            exceed.
    """

    names: tuple[str, ...]
    prompts: Sequence[str] = zero_shot.PROMPTS
    synonyms: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    calibration: CalibrationData | None = None
    background: Sequence[str] = ()

    def __post_init__(self) -> None:
        if others := [name for name in self.synonyms if name not in self.names]:
            hint = printable(did_you_mean(others[0], self.names))
            raise UsageError(f"--synonyms: {printable(others[0])} is none of --labels{hint}")


def define_flags() -> None:
    """Defines the flags that go with --labels of a model of images and texts."""
    flags.DEFINE_multi_string(
        "template",
        [],
        "With words of --labels: a text with {} for the word, may be given several times; by "
        "default several.",
    )
    flags.DEFINE_string(
        "synonyms", None, "With words of --labels: table, tag,synonym, in any language."
    )
    flags.DEFINE_string(
        "calibrate_on",
        None,
        "With words of --labels: prepared data set with tags, by whose --split scores become "
        "probabilities, and tags get their thresholds.",
    )
    flags.DEFINE_string(
        "background",
        None,
        "With words of --labels, where there are no labels to calibrate on: folder of images of "
        "all kinds; the threshold of a tag is the score that 1 % of them exceed.",
    )


def from_flags(names: tuple[str, ...] | None) -> TextLabels | None:
    """The words of --labels with what the other flags say of them.

    Raises:
        UsageError: there are such flags without --labels.
    """
    if names is None:
        others = ("template", "synonyms", "calibrate_on", "background")
        if flag := next((name for name in others if FLAGS[name].value), None):
            raise UsageError(f"--{flag} goes with --labels: the words")
        return None
    data = None
    if FLAGS.calibrate_on:
        if FLAGS.background:
            raise UsageError("give --calibrate_on or --background, not both")
        if FLAGS.dataset:
            raise UsageError("--split is of --calibrate_on or of --dataset: give images as paths")
        data = CalibrationData(FLAGS.calibrate_on, FLAGS.split, FLAGS.data_dir)
    synonyms = read_synonyms(Path(FLAGS.synonyms)) if FLAGS.synonyms else {}
    templates = tuple(FLAGS.template or zero_shot.PROMPTS)
    background = files.list_files([FLAGS.background]) if FLAGS.background else ()
    return TextLabels(names, templates, synonyms, data, background)


def apply_labels(model: Predictor, labels: TextLabels) -> Predictor:
    """A model of images and texts as a tagger or classifier with these names; others as they are.

    With a calibration or a background it is a tagger. Else it scores as it was trained: SigLIP
    each tag by itself (sigmoid), CLIP the names against each other (softmax).

    Raises:
        UserError: the data set of the calibration has no tags.
    """
    if not isinstance(model.task, zero_shot.TextEmbedder):
        return model
    if labels.calibration is not None:
        return _calibrated(model, labels, labels.calibration)
    if labels.background:
        return _with_background(model, labels, labels.background)
    assert isinstance(model.task.model, ImageText)
    is_sigmoid = model.task.model.init_logit_bias is not None
    make = zero_shot.tagger if is_sigmoid else zero_shot.classifier
    return make(model, labels.names, labels.prompts, labels.synonyms)


def _calibrated(model: Predictor, labels: TextLabels, data: CalibrationData) -> Predictor:
    """The tagger with scores and thresholds fitted on a labeled data set.

    Platt's scale and shift are fitted over all tags of the data set and serve tags that it lacks
    too; those have the threshold 0.5.
    """
    source: Source = datasets.open_split(data.dataset, data.split, data.data_dir)
    if "tags" not in source.features:
        raise UserError(f"--calibrate_on={data.dataset}: its images have no tags")
    known = source.class_names("tags")
    tagger = zero_shot.tagger(model, known, labels.prompts, labels.synonyms)
    task, source = run_data.match_to_run(tagger.task, source)
    split = task.config.data.evaluation_split  # whose images calibrate a tagger
    evaluation = Evaluator(task, model.mesh)(tagger.variables, source, split)
    assert isinstance(evaluation, TagEvaluation)
    fitted = evaluation.calibration
    by_name = dict(zip(known, fitted.thresholds, strict=True))
    thresholds = tuple(by_name.get(name, _OTHERS_THRESHOLD) for name in labels.names)
    named = zero_shot.tagger(model, labels.names, labels.prompts, labels.synonyms)
    assert isinstance(named.task, TagTask)
    named.task.calibration = TagCalibration(fitted.scale, fitted.shift, thresholds)
    num_shared = sum(name in by_name for name in labels.names)
    print(
        f"scores are calibrated on {len(evaluation.index)} labeled images of {data.dataset} "
        f"({data.split}), and the thresholds of {num_shared} of {len(labels.names)} tags fitted "
        f"there (others: {_OTHERS_THRESHOLD})",
        file=sys.stderr,
    )
    return named


def _with_background(model: Predictor, labels: TextLabels, files: Sequence[str]) -> Predictor:
    """The tagger with thresholds that one in a hundred images of the background exceeds.

    Scores are a sigmoid around the mean of the thresholds, and no probabilities.
    """
    named = zero_shot.tagger(model, labels.names, labels.prompts, labels.synonyms)
    batches = features.from_predictor(model).of_files(files)
    vectors = np.concatenate([batch.vectors for batch in batches])
    if not len(vectors):
        raise UserError("--background: no image can be read")
    assert isinstance(named.task, TagTask)
    params = named.variables["params"]
    scale = np.exp(np.asarray(params["image_text"]["logit_scale"]))
    bias = np.asarray(params["image_text"].get("logit_bias", 0.0))
    logits = scale * vectors @ np.asarray(params["class_embeddings"]).T + bias
    limits = np.quantile(logits, 1 - _BACKGROUND_RATE, axis=0)
    shift = -float(limits.mean())
    thresholds = calibrated_scores(limits, 1.0, shift)
    named.task.calibration = TagCalibration(1.0, shift, tuple(thresholds.tolist()))
    print(
        f"thresholds are what {_BACKGROUND_RATE:.0%} of {len(vectors)} unlabeled images exceed; "
        "scores are no probabilities (--calibrate_on makes them)",
        file=sys.stderr,
    )
    return named
