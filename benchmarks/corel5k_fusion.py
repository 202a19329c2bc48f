"""Tags Corel-5K by a model, by an index, and by both.

    python -m jaxtag.prepare --dataset=corel5k --source=COREL5K
    python -m jaxtag.train --config=flickr8k_match --workdir=runs/flickr8k_match
    python benchmarks/corel5k_fusion.py --model=runs/flickr8k_match --labeled=500
    python -m jaxtag.train --config=corel5k_tag_frozen --workdir=runs/corel5k_linear
    python benchmarks/corel5k_fusion.py --model=runs/corel5k_linear \
        --features=efficientnet_lite0 --image_size=320 --metric=hellinger

A model of images and texts has not seen Corel-5K: the 374 tags are texts to it. The --labeled
images of the training part, drawn by --seed, are the index, by two-pass kNN on the vectors of whole
images by --features (by default the model's own). They calibrate the scores of such a model too, by
Platt's scale and shift, as `annotate --calibrate_on` does. Both together is the mean of their
scores, as of `annotate --model --index`. Printed are the metrics of the validation part.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import jaxtag
from jaxtag.data.sources import Source
from jaxtag.datasets.prepared import open_split
from jaxtag.inference import feature_cache, features, zero_shot
from jaxtag.inference.predictor import Predictor
from jaxtag.metrics import multilabel
from jaxtag.tag_index import TWO_PASS, TagIndex
from jaxtag.tasks.evaluator import Evaluator
from jaxtag.tasks.tag.calibration import calibrated_scores, fit_calibration
from jaxtag.training import run_data


def read_tags(source: Source) -> np.ndarray:
    """bool [N, T]."""
    tags = np.zeros((len(source), len(source.class_names("tags"))), bool)
    for row, record in enumerate(source.iter_fields(["tags"])):
        tags[row, list(record["tags"])] = True
    return tags


def index_scores(
    extractor: features.FeatureExtractor,
    names: list[str],
    labeled: tuple[np.ndarray, np.ndarray],
    vectors: np.ndarray,
    metric: str,
) -> np.ndarray:
    """Scores [Q, T] of an index of vectors and tags."""
    with tempfile.TemporaryDirectory() as folder:
        index = TagIndex.create(
            Path(folder) / "index",
            dimension=vectors.shape[1],
            metric=metric,
            features=extractor.description,
            knn=TWO_PASS,
        )
        files = [str(number) for number in range(len(labeled[0]))]
        tags_of_rows = [[names[tag] for tag in np.flatnonzero(row)] for row in labeled[1]]
        index.add(files, labeled[0], tags_of_rows)
        columns = [names.index(name) for name in index.tag_names]
        scores = np.zeros((len(vectors), len(names)), np.float32)
        scores[:, columns] = index.scores(vectors)
    return scores


def word_scores(
    model: Predictor, names: list[str], labeled: tuple[np.ndarray, np.ndarray], vectors: np.ndarray
) -> np.ndarray:
    """Scores [Q, T] of names as texts, calibrated on labeled vectors and tags."""
    of_names = zero_shot.embed_names(model, names, zero_shot.PROMPTS)
    scale = float(np.exp(np.asarray(model.variables["params"]["logit_scale"])))
    logits = scale * labeled[0] @ of_names.T
    fitted = fit_calibration(logits, labeled[1], np.ones_like(labeled[1]))
    return calibrated_scores(scale * vectors @ of_names.T, fitted.scale, fitted.shift)


def tagger_scores(model: Predictor, source: Source) -> np.ndarray:
    """Scores [Q, T] of a trained tagger."""
    task, source = run_data.match_to_run(model.task, source)
    evaluation = Evaluator(task, model.mesh)(model.variables, source, "validation")
    return np.asarray(evaluation.predictions()["scores"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--features", help="a name of jaxtag.list_models() with packaged weights")
    parser.add_argument("--image_size", type=int, help="of --features")
    parser.add_argument("--metric", default="cosine", help="of the index")
    parser.add_argument("--labeled", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data_dir")
    arguments = parser.parse_args()
    model = jaxtag.load(arguments.model)
    if named := arguments.features:
        extractor = features.from_model(named, named, arguments.image_size, whole_image=True)
    else:
        extractor = features.from_predictor(model)
    train, test = (
        open_split("corel5k", split, arguments.data_dir) for split in ("train", "validation")
    )
    names = train.class_names("tags")
    vectors, tags = feature_cache.split_features(extractor, train).vectors, read_tags(train)
    drawn = np.random.default_rng(arguments.seed).permutation(len(vectors))[: arguments.labeled]
    labeled = vectors[drawn], tags[drawn]
    test_vectors, truth = feature_cache.split_features(extractor, test).vectors, read_tags(test)

    if isinstance(model.task, zero_shot.TextEmbedder):
        of_model = word_scores(model, names, labeled, test_vectors)
    else:
        of_model = tagger_scores(model, test)
    index = index_scores(extractor, names, labeled, test_vectors, arguments.metric)
    for name, scores in {"model": of_model, "index": index, "both": (of_model + index) / 2}.items():
        metrics = multilabel.ranking_metrics(scores, truth, np.ones_like(truth))
        error = multilabel.calibration_error(scores, truth, np.ones_like(truth))
        values = {key: metrics[key] for key in ("f1@5", "map", "n+")} | {"calibration": error}
        print(f"{name:6}", {key: round(value, 4) for key, value in values.items()})


if __name__ == "__main__":
    main()
