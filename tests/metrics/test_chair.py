"""Objects named and absent, on captions whose objects are known."""

import pytest

from jaxtag.metrics import captioning
from jaxtag.metrics.captioning.chair import chair, objects


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("two girls ride mountain bikes", ["person", "bicycle"]),
        ("a hot dog beside a dog", ["hot-dog", "dog"]),
        ("puppies and a teddy bear", ["dog", "teddy-bear"]),
        ("a man waits at the traffic lights", ["person", "traffic-light"]),
        ("something green", []),
        ("", []),
    ],
)
def test_objects(caption, named):
    assert objects(caption.split()) == named


def test_fractions_of_objects_and_of_captions():
    captions = ["a dog catches a frisbee", "a woman with a cat", "it rains"]
    references = [["a hound plays", "a disc in the air"], ["a lady", "a girl sits"], ["rain"]]
    # dog and frisbee are there by other names, person too; the cat is not
    assert chair(captions, references) == {"CHAIR-i": 1 / 4, "CHAIR-s": 1 / 3}
    assert chair(["it rains"], [["a cat"]]) == {}


def test_references_name_nothing_absent():
    references = {0: ["A man and his dogs.", "A dog runs."], 1: ["Two boats", "a Boat at sea"]}
    scores = captioning.score({0: "a dog and a man", 1: "a boat"}, references)
    assert scores["CHAIR-i"] == scores["CHAIR-s"] == 0
    assert captioning.score({0: "a boat", 1: "a boat"}, references)["CHAIR-s"] == 0.5
