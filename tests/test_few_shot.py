"""Few-shot accuracy from the command line, on pixels."""

import numpy as np
import pytest
from calling import call
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 40), "red": (220, 30, 30)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.RandomState(0)
    for split, count in (("train", 4), ("validation", 1), ("test", 6)):
        for name, colour in COLOURS.items():
            folder = root / "source" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(colour, 20, (16, 16, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    flags = "--dataset=colours", f"--source={root / 'source'}", f"--data_dir={root / 'data'}"
    done = call("prepare", *flags)
    assert done.status == 0, done.err
    return root / "data"


def test_a_few_pictures_of_each_colour(data):
    flags = f"--data_dir={data}", "--dataset=colours", "--pixels=4", "--shots=1,4", "--seeds=2"
    done = call("few_shot", *flags)
    assert done.status == 0, done.err
    assert done.last.keys() == {"1", "4"}
    for methods in done.last.values():
        for summary in methods.values():
            assert summary["mean"] == np.mean(summary["accuracies"]) > 0.9
            assert len(summary["accuracies"]) == 2
    assert "4 a class: linear_probe 1.000 ± 0.000" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pixels=4", "--shots=0"], "--shots=0: must be positive"),
        (["--pixels=4", "--shots=9"], "fewer than the 9"),
        (["--pixels=4", "--image_size=8"], "--image_size: only for a --model"),
        (["--model=squeezenet1_1", "--image_size=-5"], "--image_size=-5"),
        (["--pixels=4", "--whole_image"], "--whole_image: only for a --model"),
        ([], "give one of --workdir, --model and --pixels"),
    ],
)
def test_wrong_use_is_one_line(data, arguments, message):
    done = call("few_shot", f"--data_dir={data}", "--dataset=colours", *arguments)
    assert done.status in (1, 2) and message in done.err
    assert not done.out
