"""index build and few_shot as jobs of two processes: what one process makes."""

import json

import jobs
import pytest
from calling import call
from PIL import Image

from jaxtag import datasets
from jaxtag.tag_index import IndexStorage

pytestmark = pytest.mark.slow  # four starts of JAX


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder for each of two classes, 12 pictures in each."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(24):
        split = "train" if number < 16 else "test"
        path = folder / split / ("dark" if number % 2 else "light") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 5 * number if number % 2 else 255 - 5 * number).save(path)
    return folder


def test_two_processes_build_the_index_of_one(pictures, tmp_path):
    flags = ["--pixels=4", "--tag=seen", pictures]
    job = jobs.start("index", "build", f"--index={tmp_path / 'two'}", *flags)
    assert job.wait() == [0, 0], job.errors
    assert call("index", "build", f"--index={tmp_path / 'one'}", *flags).status == 0
    one, two = IndexStorage(tmp_path / "one"), IndexStorage(tmp_path / "two")
    assert list(two.files) == list(one.files) and len(two.files) == 24
    assert (two.tags() != one.tags()).nnz == 0


def test_two_processes_have_the_accuracies_of_one(pictures, tmp_path):
    datasets.prepare("shades", pictures, tmp_path)
    flags = ["--pixels=4", "--dataset=shades", f"--data_dir={tmp_path}", "--shots=2", "--seeds=2"]
    processes = jobs.start("few_shot", *flags)
    outputs = [process.communicate(timeout=jobs.SECONDS) for process in processes.processes]
    assert [process.returncode for process in processes.processes] == [0, 0], outputs
    assert "accuracies" not in outputs[1][0]
    expected = call("few_shot", *flags).last
    assert json.loads(outputs[0][0].splitlines()[-1]) == expected
