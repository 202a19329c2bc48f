"""Published checkpoints annotate at once: no work directory, no training."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calling import call
from PIL import Image

import jaxtag
from jaxtag import models, weights
from jaxtag.errors import UserError
from jaxtag.inference import checkpoint, features, predictor
from jaxtag.inference.checkpoint import CheckpointOptions
from jaxtag.models.preprocessing import Preprocessing

VIT = {"patch_size": 8, "width": 24, "depth": 1, "heads": 2, "mlp_dim": 48, "image_size": 32}
PREPROCESSING = Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), crop=0.8)
# What SqueezeNet and EfficientNet-Lite0 both see with little doubt.
SHOWN = {
    "000000011813": "tripod",
    "000000062554": "broccoli",
    "000000073326": "refrigerator",
    "000000092660": "broccoli",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A classifier of three classes as timm publishes it, and an image."""
    folder = tmp_path_factory.mktemp("timm")
    model = models.ViT(**VIT, num_classes=3)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    random = np.random.RandomState(0)
    variables = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), variables)
    weights.save(
        folder, model, variables, "timm", labels=["cat", "dog", "fox"], preprocessing=PREPROCESSING
    )
    Image.new("RGB", (50, 40), "red").save(folder / "a.png")
    return folder


def annotate(folder: Path, output: Path, *flags: str) -> dict:
    done = call("annotate", *flags, f"--output={output}", folder / "a.png")
    assert done.status == 0, done.err
    return json.loads(output.read_text())


def test_a_folder_annotates_as_its_work_directory_does(tmp_path, folder) -> None:
    row = annotate(folder, tmp_path / "a.jsonl", f"--model={folder}")
    assert {tag["tag"] for tag in row["tags"]} == {"cat", "dog", "fox"}
    checkpoint.import_checkpoint(folder, tmp_path / "run")
    assert annotate(folder, tmp_path / "b.jsonl", f"--workdir={tmp_path / 'run'}") == row
    assert annotate(folder, tmp_path / "c.jsonl", f"--model={folder / 'model.safetensors'}") == row
    renamed = annotate(folder, tmp_path / "d.jsonl", f"--model={folder}", "--labels=a,b,c")
    assert {tag["tag"] for tag in renamed["tags"]} == {"a", "b", "c"}
    loaded = jaxtag.load(folder)
    [tag, *_] = loaded(folder / "a.png").tags
    assert tag.tag == row["tags"][0]["tag"]


def test_selected_tags_make_a_tagger(tmp_path, folder) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "selected_tags.csv").write_text(
        "tag_id,name,category,count\n1,1girl,0,9\n2,solo,0,8\n3,outdoors,0,7\n"
    )
    opened = checkpoint.open_checkpoint(tmp_path)
    assert opened.task.config.task.TASK == "tag"
    assert opened.task.vocabulary.names == ("1girl", "solo", "outdoors")
    data = opened.task.config.data  # as its author's program prepares them: BGR on a white square
    assert (data.eval_fit, data.eval_crop_pct) == ("pad", None)
    kernel = weights.load(folder, opened.task.model)["params"]["patch_embed"]["kernel"]
    ours = opened.variables["params"]["patch_embed"]["kernel"]
    np.testing.assert_array_equal(ours, kernel[:, :, ::-1])
    (tmp_path / "selected_tags.csv").write_text("tag\na\n")
    with pytest.raises(UserError, match=r"selected_tags\.csv is damaged"):
        checkpoint.open_checkpoint(tmp_path)


def test_what_a_file_does_not_say_is_asked_for(tmp_path, folder) -> None:
    path = tmp_path / "squeezenet.safetensors"
    model = models.create_model("squeezenet1_1", num_classes=2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    weights.save(path, model, variables, "torchvision")
    with pytest.raises(UserError, match="give --backbone=NAME"):
        checkpoint.open_checkpoint(path)
    options = CheckpointOptions(backbone="squeezenet1_1")
    with pytest.raises(UserError, match=r"does not name the classes: give --labels=FILE"):
        checkpoint.open_checkpoint(path, options)
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n")
    labels = checkpoint.parse_labels([str(tmp_path / "labels.txt")])
    opened = checkpoint.open_checkpoint(path, CheckpointOptions("squeezenet1_1", labels))
    assert opened.task.vocabulary.names == ("cat", "dog")
    assert len(checkpoint.parse_labels(["imagenet"]) or ()) == 1000
    with pytest.raises(UserError, match="does not fit"):
        checkpoint.open_checkpoint(path, CheckpointOptions("squeezenet1_1", ("a", "b", "c")))


def test_features_of_a_checkpoint_can_be_named_again(folder) -> None:
    extractor = features.from_flags(model=str(folder))
    vectors = extractor.of_inputs([str(folder / "a.png")])
    again = features.from_description(extractor.description)
    np.testing.assert_array_equal(again.of_inputs([str(folder / "a.png")]), vectors)
    packaged = features.from_flags(model="efficientnet_lite0")
    assert packaged.description["weights"] == "efficientnet_lite0" and packaged.dimension == 1280


def test_features_of_whole_images_see_their_sides(tmp_path) -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dark.png")
    pixels[:, :12] = pixels[:, -12:] = 255  # what a crop of the center leaves out
    Image.fromarray(pixels).save(tmp_path / "bright.png")
    for whole_image in (False, True):
        extractor = features.from_flags(
            model="squeezenet1_1", image_size=32, whole_image=whole_image
        )
        again = features.from_description(extractor.description)
        for used in (extractor, again):
            dark, bright = used.of_inputs(
                [str(tmp_path / f"{name}.png") for name in ("dark", "bright")]
            )
            assert np.array_equal(dark, bright) != whole_image


@pytest.mark.parametrize("name", ["efficientnet_lite0", "squeezenet1_1"])
def test_published_weights_say_what_images_show(real_data, name: str) -> None:
    reference, options = name, None
    if name == "squeezenet1_1":
        reference = str(real_data / "weights/squeezenet1_1.safetensors")
        options = CheckpointOptions(name, checkpoint.parse_labels(["imagenet"]))
    model = predictor.load(reference, options=options)
    files = [str(real_data / f"coco_mini/val2017/{number}.jpg") for number in SHOWN]
    likeliest = [prediction.tags[0].tag for prediction in model(files, 1)]
    assert likeliest == list(SHOWN.values())


def test_a_checkpoint_is_evaluated_on_a_data_set(tmp_path, folder) -> None:
    random = np.random.RandomState(0)
    for number in range(12):
        name = ("cat", "dog", "fox")[number % 3]
        path = tmp_path / "source" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 256, (20, 20, 3), np.uint8)).save(path)
    data_dir = f"--data_dir={tmp_path / 'data'}"
    done = call("prepare", "--dataset=own", f"--source={tmp_path / 'source'}", data_dir)
    assert done.status == 0, done.err
    done = call("evaluate", f"--model={folder}", "--split=train")
    assert done.status == 2 and "give --dataset=NAME" in done.err
    done = call("evaluate", f"--model={folder}", "--dataset=own", data_dir, "--split=train")
    assert done.status == 0, done.err
    assert 0 <= done.last["top1"] <= 1 and done.last["split"] == "train"
    assert not (folder / "evaluation.json").exists()
