"""Classifiers and taggers made of texts: the vectors of their names, and what they score."""

import jax
import numpy as np
import pytest
from shrinking import shrink

from jaxtag.config import flags
from jaxtag.data.labels import LabelNames
from jaxtag.data.sources import as_data_source
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError, UserError
from jaxtag.inference import zero_shot
from jaxtag.inference.predictor import Predictor
from jaxtag.metrics import multilabel
from jaxtag.tasks.evaluator import Evaluator
from jaxtag.tasks.match.task import MatchTask

pytestmark = pytest.mark.usefixtures("one_device")
NAMES = ["dog", "cat", "sea"]
PROMPTS = ["{}", "a photo of a {}"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Predictor:
    """A model of images and texts as it is at its start, its image encoder frozen."""
    config = shrink(flags.load("coco_match"))
    config.model.freeze = True
    tokenizer = Tokenizer.train([f"a photo of a {name}" for name in NAMES], 300)
    task = MatchTask(config, tokenizer)
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    variables = jax.jit(task.init)(jax.random.key(0))
    return Predictor(task, mesh, variables, 0, tmp_path_factory.mktemp("model"), "model")


def records() -> list[dict]:
    rng = np.random.default_rng(0)
    tags = [["dog"], ["cat", "sea"], [], ["dog", "sea"], ["cat"]]
    return [{"image": rng.integers(0, 256, (32, 32, 3), np.uint8), "tags": t} for t in tags]


def test_a_name_is_the_mean_of_its_prompts(model, monkeypatch) -> None:
    monkeypatch.setattr(zero_shot, "_BATCH", 4)  # six texts: the second batch is not full
    vectors = zero_shot.embed_names(model, NAMES, PROMPTS)
    for name, vector in zip(NAMES, vectors, strict=True):
        texts = [prompt.replace("{}", name) for prompt in PROMPTS]
        each = model.task.embed_texts(model.variables, model.task.tokenize(texts))
        mean = np.asarray(each).mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_a_tagger_is_evaluated_by_similarities(model) -> None:
    source = as_data_source(records())
    tagger = zero_shot.for_source(model, source, PROMPTS)
    assert tagger.task.vocabulary == LabelNames(tuple(source.class_names("tags")))
    evaluation = Evaluator(tagger.task, model.mesh)(tagger.variables, source, "validation")
    images = np.stack([record["image"] for record in records()])
    vectors = np.asarray(model.task.embed(model.variables, images))
    names = tagger.task.vocabulary.names
    similarity = vectors @ zero_shot.embed_names(model, names, PROMPTS).T
    tags = np.array([[name in record["tags"] for name in names] for record in records()])
    expected = multilabel.ranking_metrics(similarity, tags, np.ones_like(tags))
    for name, value in expected.items():
        assert evaluation.metrics[name] == pytest.approx(value)
    np.testing.assert_allclose(tagger.features(list(images)), vectors, atol=1e-6)


def test_what_has_no_names_or_no_texts_is_refused(model) -> None:
    captions = as_data_source([{"image": records()[0]["image"], "captions": ["a dog"]}])
    with pytest.raises(UserError, match="has neither labels nor tags"):
        zero_shot.for_source(model, captions)
    with pytest.raises(UsageError, match=r"the prompt 'a photo' has no \{\}"):
        zero_shot.embed_names(model, NAMES, ["a photo"])
    classifier = zero_shot.classifier(model, NAMES, PROMPTS)
    with pytest.raises(UsageError, match="model embeds images alone"):
        zero_shot.embed_texts(classifier, NAMES)
