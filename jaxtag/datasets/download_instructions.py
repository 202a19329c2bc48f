"""How to come by a data set: the exact commands, for the message that says it is not there."""

_EMBEDDED = "The embedded data need no files: --config=shapes_caption"

_COCO = """\
To get COCO 2017 (about 19 GB, https://cocodataset.org) and prepare it; the zips stay packed:
  mkdir -p coco && cd coco
  wget -c http://images.cocodataset.org/zips/train2017.zip
  wget -c http://images.cocodataset.org/zips/val2017.zip
  wget -c http://images.cocodataset.org/annotations/annotations_trainval2017.zip
  cd ..
  python -m jaxtag.prepare --dataset={dataset} --source=coco{data_dir}"""

_COCO_2014 = """\
To get COCO 2014 (about 19 GB, https://cocodataset.org) and prepare it; the zips stay packed:
  mkdir -p coco && cd coco
  wget -c http://images.cocodataset.org/zips/train2014.zip
  wget -c http://images.cocodataset.org/zips/val2014.zip
  wget -c http://images.cocodataset.org/annotations/annotations_trainval2014.zip{karpathy}
  cd ..
  python -m jaxtag.prepare --dataset={dataset} --source=coco{data_dir}"""

_KARPATHY = """
  wget -c https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"""

_FLICKR8K = """\
To get Flickr8k (about 1 GB) and prepare it; the zips stay packed:
  mkdir -p flickr8k && cd flickr8k
  wget -c https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_Dataset.zip
  wget -c https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip
  cd ..
  python -m jaxtag.prepare --dataset={dataset} --source=flickr8k{data_dir}"""

_MNIST = """\
To get MNIST (11 MB) and prepare it; the files stay packed:
  mkdir -p mnist && cd mnist
  for part in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
    wget -c https://ossci-datasets.s3.amazonaws.com/mnist/$part-ubyte.gz
  done
  cd ..
  python -m jaxtag.prepare --dataset={dataset} --source=mnist{data_dir}"""

_CIFAR10 = """\
To get CIFAR-10 (170 MB) and prepare it; the archive stays packed:
  mkdir -p cifar10 && cd cifar10
  wget -c https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz
  cd ..
  python -m jaxtag.prepare --dataset={dataset} --source=cifar10{data_dir}"""

_CIFAR100 = """\
To get CIFAR-100 (170 MB) and prepare it; the archive stays packed:
  mkdir -p cifar100 && cd cifar100
  wget -c https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz
  cd ..
  python -m jaxtag.prepare --dataset={dataset} --source=cifar100{data_dir}"""

_IMAGENET = """\
To get ImageNet-1k (145 GB), register at https://image-net.org/download-images, put these files
into one folder, packed as they are, and prepare them:
  ILSVRC2012_img_train.tar  ILSVRC2012_img_val.tar  ILSVRC2012_devkit_t12.tar.gz
  python -m jaxtag.prepare --dataset={dataset} --source=FOLDER{data_dir}"""

_VOC2007 = """\
To get Pascal VOC 2007 (900 MB) and prepare it; the tars stay packed:
  mkdir -p voc2007 && cd voc2007
  wget -c http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar
  wget -c http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar
  cd ..
  python -m jaxtag.prepare --dataset={dataset} --source=voc2007{data_dir}"""

_NUS_WIDE = """\
To get NUS-WIDE, take ImageList.zip, Groundtruth.zip and ConceptsList.zip from
https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html
and the images, which its authors send the links of, below a folder Flickr or images; put all
into one folder, packed or not (some images are gone from Flickr: those there are will do):
  ImageList.zip  Groundtruth.zip  ConceptsList.zip  Flickr/actor/0001_2124494179.jpg …
  python -m jaxtag.prepare --dataset={dataset} --source=FOLDER{data_dir}"""

_MIRFLICKR = """\
To get MIRFlickr-25K (3 GB, https://press.liacs.nl/mirflickr/) and prepare it, both packed:
  mkdir -p mirflickr && cd mirflickr
  wget -c https://press.liacs.nl/mirflickr/mirflickr25k.v3b/mirflickr25k.zip
  wget -c https://press.liacs.nl/mirflickr/mirflickr25k.v3b/mirflickr25k_annotations_v080.zip
  cd ..
  python -m jaxtag.prepare --dataset={dataset} --source=mirflickr{data_dir}"""

_COREL5K = """\
The images of Corel-5K are under copyright and have no official place. Prepare a copy that you may
use from a folder with the images (1000.jpeg …, in folders or not) and either labels/words,
labels/training_label and labels/test_label or, of http://kobus.ca/research/data/eccv_2002/, words,
image_nums, document_words, test_1_image_nums and test_1_document_words:
  python -m jaxtag.prepare --dataset={dataset} --source=FOLDER{data_dir}"""

_SHAPES = """\
It is made from a seed, without any files:
  python -m jaxtag.prepare --dataset={dataset}{data_dir}"""

_OWN = """\
If it is your own: put the images into a folder with a file of captions beside them (captions.csv
with the columns file and caption, captions.jsonl, or a COCO-style captions.json) or of tags (the
same with tags for caption, as in sea;sky), or, to classify, the images of each class into a
folder of its name, then
  python -m jaxtag.prepare --dataset={dataset} --source=FOLDER{data_dir}"""


def download_instructions(dataset: str, data_dir: str | None = None) -> str:
    """The commands that get and prepare a data set, and what to use instead.

    Args:
        dataset: its name; one that is not built in is taken for the user's own.
        data_dir: shown as `--data_dir` of the command where given.
    """
    text = {
        "shapes_captions": _SHAPES,
        "coco_captions": _COCO,
        "coco_captions_2017": _COCO,
        "coco_captions_2014": _COCO_2014.replace("{karpathy}", ""),
        "coco_captions_karpathy": _COCO_2014.replace("{karpathy}", _KARPATHY),
        "flickr8k_captions": _FLICKR8K,
        "mnist": _MNIST,
        "cifar10": _CIFAR10,
        "cifar100": _CIFAR100,
        "imagenet2012": _IMAGENET,
        "voc2007": _VOC2007,
        "coco_tags": _COCO,
        "coco_tags_2017": _COCO,
        "coco_tags_2014": _COCO_2014.replace("{karpathy}", ""),
        "nus_wide": _NUS_WIDE,
        "mirflickr25k": _MIRFLICKR,
        "corel5k": _COREL5K,
    }.get(dataset, _OWN)
    flag = f" --data_dir={data_dir}" if data_dir else ""
    text = text.format(dataset=dataset, data_dir=flag)
    return text if dataset == "shapes_captions" else f"{_EMBEDDED}\n{text}"
