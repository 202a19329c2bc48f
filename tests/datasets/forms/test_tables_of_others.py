"""Tables of Kaggle's competitions and data sets, and of Open Images."""

import json

import pytest
from labelled import lay, list_own, listed, picture

from jaxtag.errors import UserError


def by_file(listing):
    return {file: value for _, file, value in listed(listing)}


def test_kaggles_flickr8k(tmp_path):
    """https://www.kaggle.com/datasets/adityajn105/flickr8k: Images/ and captions.txt"""
    table = (
        "image,caption\n1_a.jpg,A child in a pink dress .\n1_a.jpg,A girl , alone , on stairs .\n"
        '2_b.jpg,"A dog, and a ball ."\n2_b.jpg,\n'
    )
    files = {"captions.txt": table, "Images/1_a.jpg": picture(1), "Images/2_b.jpg": picture(2)}
    assert by_file(list_own(lay(tmp_path, files))) == {
        "1_a.jpg": ["A child in a pink dress .", "A girl , alone , on stairs ."],
        "2_b.jpg": ["A dog, and a ball ."],
    }


def test_kaggles_flickr30k(tmp_path):
    """https://www.kaggle.com/datasets/hsankesara/flickr-image-dataset: results.csv with bars"""
    rows = [f"{n}.jpg| {k}| Caption {k} , of {n} ." for n in range(4) for k in range(2)]
    rows[3] = '1.jpg| 1| He says " hello " .'
    rows[5] = "2.jpg| 4   A dog runs across the grass ."  # as the original has it
    table = "image_name| comment_number| comment\n" + "\n".join(rows) + "\n"
    files = {"flickr30k_images/results.csv": table}
    files |= {f"flickr30k_images/flickr30k_images/{n}.jpg": picture(n) for n in range(4)}
    listing = list_own(lay(tmp_path, files))
    captions = by_file(listing)
    assert captions["0.jpg"] == ["Caption 0 , of 0 .", "Caption 1 , of 0 ."]
    assert captions["1.jpg"][1] == 'He says " hello " .'
    assert captions["2.jpg"] == ["Caption 0 , of 2 ."]
    assert any("line 7" in place and "2 fields" in text for place, text in listing.problems)


MAPS = {
    "label_num_to_disease_map.json": json.dumps({"0": "Blight", "3": "Mosaic", "4": "Healthy"}),
    "classes.json": json.dumps({"Blight": 0, "Mosaic": 3, "Healthy": 4}),
    "labels.csv": "attribute_id,attribute_name\n0,Blight\n3,Mosaic\n4,Healthy\n",
    "class_names.csv": "id,name\n0,Blight\n3,Mosaic\n4,Healthy\n",
    "classes.txt": "Blight\na\nb\nMosaic\nHealthy\n",
    "config_id2label.json": json.dumps(
        {"id2label": {"0": "Blight", "3": "Mosaic", "4": "Healthy"}}
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_numbers_are_named_by_a_map_beside(tmp_path, name):
    """https://www.kaggle.com/competitions/cassava-leaf-disease-classification/data"""
    files = {f"train_images/{n}.jpg": picture(n) for n in range(4)} | {name: MAPS[name]}
    files["train.csv"] = "image_id,label\n0.jpg,0\n1.jpg,3\n2.jpg,4\n3.jpg,3\n"
    files["sample_submission.csv"] = "image_id,label\n9.jpg,4\n"
    listing = list_own(lay(tmp_path, files))
    assert by_file(listing) == {
        "0.jpg": ["Blight"], "1.jpg": ["Mosaic"], "2.jpg": ["Healthy"], "3.jpg": ["Mosaic"]
    }  # fmt: skip
    names = listing.features["label"].names
    assert [name for name in names if len(name) > 1] == ["Blight", "Mosaic", "Healthy"]
    assert any(f"named by {name}" in text for text in listing.warnings)


def test_a_map_that_does_not_fit_is_not_used(tmp_path):
    table = "id,attribute_ids\n0,0 3\n1,4\n"
    files = {"train.csv": table, "train/0.png": picture(0, "PNG"), "train/1.png": picture(1, "PNG")}
    files["labels.csv"] = "attribute_id,x\n0,Blight\n3,Mosaic\n"
    numbers = {"train/0.png": ["0", "3"], "train/1.png": ["4"]}
    assert by_file(list_own(lay(tmp_path, files))) == numbers
    other = json.dumps({"0": "x", "3": "y", "4": "z"})
    listing = list_own(lay(tmp_path, {"classes.txt": MAPS["classes.txt"], "map.json": other}))
    assert by_file(listing) == numbers
    assert any("classes.txt or map.json, which differ" in text for text in listing.warnings)


def test_one_column_a_class(tmp_path):
    """https://www.kaggle.com/competitions/plant-pathology-2020-fgvc7/data"""
    table = "image_id,healthy,multiple diseases,rust\nTrain_0,0,0,1\nTrain_1,1,1,0\n"
    files = {f"images/Train_{n}.jpg": picture(n) for n in range(2)} | {"train.csv": table}
    assert by_file(list_own(lay(tmp_path, files))) == {
        "images/Train_0.jpg": ["rust"],
        "images/Train_1.jpg": ["healthy", "multiple_diseases"],
    }


def test_a_malformed_table_beside_another(tmp_path):
    files = {"tags.csv": "file,tags\na.jpg,x\n", "notes.csv": "fiel,txet\n1,2\n"}
    files["a.jpg"] = picture()
    listing = list_own(lay(tmp_path, files))
    assert by_file(listing) == {"a.jpg": ["x"]}
    assert any("notes.csv is not used" in text for text in listing.warnings)
    with pytest.raises(UserError, match=r"val\.csv: no column 'file'"):
        list_own(lay(tmp_path, {"val.csv": "fiel,tags\na.jpg,x\n"}))


def test_paths_of_other_machines(tmp_path):
    paths = [
        r"C:\Users\x\pets\cat\1.jpg",
        "/home/y/pets/dog/1.jpg",
        "../pets/dog/2.JPG",
        "bird%201",
    ]
    table = "file,tags\n" + "".join(f"{path},{n}\n" for n, path in enumerate(paths))
    names = ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg", "bird 1.png"]
    files = {f"p/{name}": picture(n) for n, name in enumerate(names)} | {"tags.csv": table}
    assert by_file(list_own(lay(tmp_path, files))) == {
        f"p/{name}": [str(n)] for n, name in enumerate(names)
    }


LABELS = """ImageID,Source,LabelName,Confidence
aaa,verification,/m/01,1
aaa,verification,/m/02,0
aaa,crowdsource-verification,/m/03,1
bbb,verification,/m/02,1
zzz,verification,/m/02,1
"""


def test_open_images(tmp_path):
    """https://storage.googleapis.com/openimages/web/download_v7.html"""
    files = {
        "train-annotations-human-imagelabels.csv": LABELS,
        "validation-annotations-human-imagelabels.csv": LABELS.partition("\n")[0]
        + "\nccc,verification,/m/03,1\nccc,verification,/m/01,0\nccc,verification,/m/02,0\n",
        "train-annotations-machine-imagelabels.csv": LABELS.replace(",1", ",0.8"),
        "oidv7-class-descriptions.csv": 'LabelName,DisplayName\n/m/01,Cat\n/m/02,"Dog, wild"\n',
        "train/aaa.jpg": picture(1),
        "train/bbb.jpg": picture(2),
        "validation/ccc.jpg": picture(3),
    }
    listing = list_own(lay(tmp_path, files))
    assert listing.form.startswith("Open Images' CSVs (train-annotations-human-imagelabels.csv)")
    assert listed(listing) == [
        ("train", "train/aaa.jpg", ["/m/03", "Cat"]),
        ("train", "train/bbb.jpg", ["Dog, wild"]),
        ("validation", "validation/ccc.jpg", ["/m/03"]),
    ]
    names = listing.features["tags"].feature.names
    unknown = {
        image.file: [names[number] for number in image.fields["unknown_tags"]]
        for images in listing.splits.values()
        for image in images
    }
    assert unknown == {
        "train/aaa.jpg": [],
        "train/bbb.jpg": ["/m/03", "Cat"],
        "validation/ccc.jpg": [],
    }
    assert any("1 images that it names are not here" in reason for _, reason in listing.problems)
