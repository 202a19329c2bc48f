"""The program beside an exported model: it takes images to tags, vectors or captions.

Each fits a screen and needs no jaxtag: ONNX Runtime or JAX, NumPy and Pillow.
"""

_START = '''\
"""{title}: python example.py IMAGE…"""
import json
import sys
from pathlib import Path

{imports}
import numpy as np
from PIL import Image, ImageOps

folder, files = Path(__file__).parent, sys.argv[1:]
about = json.loads((folder / "jaxtag.json").read_text("utf-8"))
prepare = about["preprocessing"]


def pixels(file):
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    size, fit = prepare["image_size"], prepare["fit"]
    if fit == "pad":
        longer, inside = max(image.size), image
        image = Image.new("RGB", (longer, longer), "white")
        image.paste(inside, tuple((longer - side) // 2 for side in inside.size))
    target, shorter = int(size / prepare["crop"] + 1e-6), min(image.size)
    sides = [int(target * side / shorter) if fit == "crop" else target for side in image.size]
    image = image.resize(sides, Image.Resampling[prepare["interpolation"].upper()])
    x, y = (round((side - size) / 2) for side in sides)
    return np.asarray(image.crop((x, y, x + size, y + size)))


images = np.stack([pixels(file) for file in files])
'''

_ONNX = """\
session = onnxruntime.InferenceSession(folder / "model.onnx")
outputs = session.run(None, {"images": images})[0]
"""
_STABLEHLO = """\
program = jax.export.deserialize((folder / "model.stablehlo").read_bytes())
outputs = np.asarray(program.call(images)["{output}"])
"""

_CLASSES = """\
for file, scores in zip(files, outputs):
    print(file, {about["labels"][i]: round(float(scores[i]), 4) for i in np.argsort(-scores)[:5]})
"""
_TAGS = """\
for file, scores in zip(files, outputs):
    order = np.argsort(-scores)
    chosen = [i for i in order if scores[i] >= about["thresholds"][i]] or order[:1]
    print(file, {about["labels"][i]: round(float(scores[i]), 4) for i in chosen})
"""
_VECTORS = """\
for file, vector in zip(files, outputs):
    print(file, vector.round(4).tolist())
"""
_SEARCH = """\
encoder = onnxruntime.InferenceSession(folder / "encoder.onnx")
decoder = onnxruntime.InferenceSession(folder / "decoder.onnx")
state = dict(zip([o.name for o in encoder.get_outputs()], encoder.run(None, {"images": images})))
caches = [name for name in state if name.startswith("cache")]
outputs = np.full((len(files), 1), about["bos_id"], np.int32)
for position in range(about["max_length"] - 1):  # greedy: the likeliest token after the prompt
    state |= {"token": outputs[:, -1], "position": np.array(position, np.int32)}
    logits, *new = decoder.run(None, state)
    state |= dict(zip(caches, new))
    token = logits.argmax(-1)
    token[:] = about["prompt"][position] if position < len(about["prompt"]) else token
    outputs = np.concatenate([outputs, token[:, None].astype(np.int32)], 1)
    if (outputs[:, 1:] == about["eos_id"]).any(1).all():
        break
"""
_CAPTIONS = """\
tokens = json.loads((folder / "tokens.json").read_text("utf-8"))
for file, row in zip(files, outputs[:, 1:].tolist()):
    row = row[: row.index(about["eos_id"])] if about["eos_id"] in row else row
    text = "".join(tokens[t] for t in row if 0 <= t < len(tokens))
    print(file, " ".join(text.encode("latin-1").decode(errors="ignore").split()))
"""

_TITLES = {
    "caption": "Captions of images",
    "embed": "Vectors of images",
    "match": "Vectors of images",
}
# Task -> (the output of its model, what is made of it)
_ENDS = {
    "classify": ("probabilities", _CLASSES),
    "tag": ("scores", _TAGS),
    "embed": ("embedding", _VECTORS),
    "match": ("embedding", _VECTORS),
    "caption": ("tokens", _CAPTIONS),
}


def example(form: str, task: str) -> str | None:
    """The program of a format ("onnx" or "stablehlo") and a task; None for an unknown task."""
    if task not in _ENDS:
        return None
    output, end = _ENDS[task]
    imports = {"onnx": "import onnxruntime", "stablehlo": "import jax.export"}[form]
    title = _TITLES.get(task, "Tags of images")
    start = _START.replace("{title}", title).replace("{imports}", imports)
    if form == "stablehlo":
        middle = _STABLEHLO.replace("{output}", output)
    else:
        middle = _SEARCH if task == "caption" else _ONNX
    return start + middle + end
