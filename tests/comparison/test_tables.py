"""The table of a comparison, from made-up results."""

import csv
import io
import xml.etree.ElementTree as ElementTree

import pytest

from jaxtag.comparison import tables
from jaxtag.comparison.grid import ARCHITECTURES, DATASETS
from jaxtag.comparison.reference_results import REFERENCE_RESULTS


def result(value: float, **fields) -> dict:
    defaults = {"metric": "top1", "value": value, "split": "test", "image_size": 32}
    defaults |= {"pretraining": "none", "pictures": 6400, "parameters": 1_250_000}
    defaults |= {"multiply_adds": 37_000_000, "seconds": 90.0, "peak_memory_bytes": 3 << 29}
    return {**defaults, **fields}


@pytest.fixture
def results() -> tables.Results:
    return {
        ("resnet", "mnist"): [result(0.98), result(0.99, seconds=110.0)],
        ("capsnet", "mnist"): [result(0.995, multiply_adds=200_000_000)],
        ("resnet", "voc2007"): "data absent",
        ("capsnet", "voc2007"): "data absent",
    }


def test_csv_has_a_row_for_each_cell(results):
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(results))))
    assert [(row["architecture"], row["dataset"]) for row in rows] == list(results)
    first, second, third, _ = rows
    assert float(first["value"]) == pytest.approx(0.985)
    assert float(first["spread"]) == pytest.approx(0.00707, abs=1e-5)
    assert (first["seeds"], first["seconds"]) == ("2", "100.0")
    assert (second["published_value"], second["spread"]) == ("0.9975", "")
    assert (third["value"], third["absent"]) == ("", "data absent")


def test_markdown_names_metric_split_and_cost(results):
    text = tables.as_markdown(results)
    assert "| MNIST (top1, test) | VOC 2007 (map, test) |" in text
    assert "| ResNet | random | 0.9850 ± 0.0071 | data absent |" in text
    assert "| CapsNet | random | 0.9950 (paper: 0.9975) | data absent |" in text
    cost = "| ResNet | MNIST | 32 px | none | 6,400 x 2 | 1.25 M | 37.0 M | 100 s | 1.5 GiB |"
    assert cost in text
    columns = {line.count("|") for line in text.split("\n\n")[0].splitlines()}
    assert columns == {5}


def test_rows_say_what_they_start_from():
    runs = {
        ("efficientnet_pretrained", "mnist"): [result(0.9, pretraining="efficientnet_lite0")],
        ("efficientnet", "mnist"): [result(0.8)],
    }
    text = tables.as_markdown(runs)
    assert "| EfficientNet | ImageNet, frozen | 0.9000 |" in text
    assert "| EfficientNet | random | 0.8000 |" in text
    assert "EfficientNet (ImageNet, frozen)" in tables.as_svg(runs)


def test_text_is_aligned(results):
    first, *others = tables.as_text(results).splitlines()
    column = first.index("VOC 2007")
    assert all(line[column:] == "data absent" for line in others)


def test_plot_is_svg_with_a_point_for_each_cell(results):
    root = ElementTree.fromstring(tables.as_svg(results))
    names = [item.text for item in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"MNIST", "ResNet", "CapsNet", "1e7"} <= set(names) and "VOC 2007" not in names
    circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert float(circles[0].get("cx")) < float(circles[1].get("cx"))  # costlier is further right
    assert float(circles[0].get("cy")) > float(circles[1].get("cy"))  # better is higher
    ElementTree.fromstring(tables.as_svg({("resnet", "mnist"): "data absent"}))


def test_published_figures_belong_to_cells():
    for architecture, dataset in REFERENCE_RESULTS:
        assert architecture in ARCHITECTURES and dataset in DATASETS
