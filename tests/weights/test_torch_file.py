"""Files of torch.save: read as PyTorch reads them, and nothing in them is executed."""

import io
import itertools
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file

from jaxtag.errors import UserError
from jaxtag.weights import pickle_reader
from jaxtag.weights.tensors import Tensors
from jaxtag.weights.torch_file import TorchFile

REFERENCES = Path(__file__).parents[1] / "references"
MAGIC = 0x1950A86A20F9469CFC6C


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return load_file(REFERENCES / "torch_file.safetensors")


def archive(path: Path, content: bytes, storages=(), compression=zipfile.ZIP_STORED) -> Path:
    """A file of today's form."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", content)
        file.writestr("a/byteorder", "little")
        for key, data in storages:
            file.writestr(f"a/data/{key}", data)
    return path


def legacy(path: Path, content: bytes, storages=()) -> Path:
    """A file of the form before 1.6; storages are (key, number of elements, bytes)."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(value, 2) for value in (MAGIC, 1001, system)]
    parts += [content, pickle.dumps([key for key, *_ in storages], 2)]
    parts += [struct.pack("<q", numel) + data for _, numel, data in storages]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensors_are_those_that_torch_saved(expected, form: str) -> None:
    file = TorchFile(REFERENCES / f"torch_file_{form}.pth")
    assert set(file.keys()) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(file.read(name), tensor, err_msg=name)
        assert file.shape(name) == tensor.shape and file.read(name).dtype == tensor.dtype


def test_a_module_of_torchscript_is_its_attributes() -> None:
    file = TorchFile(REFERENCES / "torch_file_script.pt")
    shapes = {
        "conv1.weight": (2, 3, 2, 2),
        "resblocks.0.weight": (2, 3),
        "resblocks.0.bias": (2,),
        "resblocks.1.weight": (2, 2),
        "resblocks.1.bias": (2,),
        "positional_embedding": (3, 2),
    }
    assert set(file.keys()) == {*shapes, "input_resolution"}
    assert file.read("input_resolution") == 8
    for name, shape in shapes.items():
        expected = np.arange(np.prod(shape), dtype=np.float16).reshape(shape)
        assert file.dtype(name) == "float16"
        np.testing.assert_array_equal(file.read(name), expected, err_msg=name)


@pytest.mark.parametrize(
    "content",
    [
        b"c__torch__.a\nModel\n(V1\ntR.",  # called with a value
        b"c__torch__.a\nModel\n)\x81V1\nb.",  # attributes without names
        b"cos\n__torch__\n)\x81.",
        b"c__torch__x\nModel\n)\x81.",
    ],
)
def test_what_only_looks_like_torchscript_is_refused(tmp_path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"refused|no file of PyTorch's weights"):
        TorchFile(archive(tmp_path / "x.pt", content))


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_the_average_is_taken_out_of_a_trainers_file(expected, capsys, form: str) -> None:
    tensors = Tensors(REFERENCES / f"torch_file_training_{form}.pth")
    assert "weights are read from model_ema, not model" in capsys.readouterr().err
    np.testing.assert_array_equal(tensors["plain"], 2 * expected["plain"])
    assert set(tensors) == set(expected)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_files_that_end_early_are_refused(tmp_path, form: str) -> None:
    data = (REFERENCES / f"torch_file_{form}.pth").read_bytes()
    for length in (0, 1, 10, 60, 300, len(data) // 2, len(data) - 200, len(data) - 1):
        path = tmp_path / "cut.pth"
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            file = TorchFile(path)
            for name in file.keys():  # noqa: SIM118
                file.read(name)


def test_flipped_bytes_end_in_an_error_or_in_numbers(tmp_path) -> None:
    random = np.random.RandomState(0)
    for form in ("zip", "legacy"):
        data = (REFERENCES / f"torch_file_{form}.pth").read_bytes()
        for _ in range(150):
            damaged = bytearray(data)
            damaged[random.randint(len(data))] ^= 1 << random.randint(8)
            path = tmp_path / "damaged.pth"
            path.write_bytes(damaged)
            try:
                tensors = Tensors(path)
                for name in tensors:
                    assert name == "num_batches_tracked" or tensors[name].dtype == np.float32
            except UserError as error:
                assert "\n" not in str(error) or "refused" in str(error)


def text(value: str) -> bytes:
    """A pickled text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


FOREIGN = [
    ("os", "system", "touch {}"),
    ("posix", "system", "touch {}"),
    ("subprocess", "Popen", "touch {}"),
    ("subprocess", "check_output", "touch {}"),
    ("builtins", "eval", "open({!r}, 'w')"),
    ("builtins", "exec", "open({!r}, 'w')"),
    ("__builtin__", "eval", "open({!r}, 'w')"),
    ("builtins", "__import__", "os"),
    ("builtins", "getattr", "os"),
    ("torch", "load", "{}"),
    ("torch.hub", "load_state_dict_from_url", "http://localhost/{}"),
    ("torch.storage", "_load_from_bytes", "{}"),
    ("collections", "OrderedDict.__init__", "{}"),
    ("numpy.testing._private.utils", "runstring", "open({!r}, 'w')"),
    ("pathlib", "Path", "{}"),
]
# Each calls a class or function, or uses its name, in another way.
WAYS = {
    "global reduce": lambda m, n, a: f"c{m}\n{n}\n".encode() + b"(" + text(a) + b"tR",
    "stack_global": lambda m, n, a: text(m) + text(n) + b"\x93(" + text(a) + b"tR",
    "inst": lambda m, n, a: b"(" + text(a) + f"i{m}\n{n}\n".encode(),
    "obj": lambda m, n, a: b"(" + f"c{m}\n{n}\n".encode() + text(a) + b"o",
    "newobj": lambda m, n, a: f"c{m}\n{n}\n".encode() + b"(" + text(a) + b"t\x81",
    "newobj_ex": lambda m, n, a: f"c{m}\n{n}\n".encode() + b"(" + text(a) + b"t}\x92",
    "build": lambda m, n, a: b"ccollections\nOrderedDict\n)R" + f"c{m}\n{n}\n".encode() + b"b",
    "nested": lambda m, n, a: (
        b"]" + b"ccollections\nOrderedDict\n(" + f"c{m}\n{n}\n".encode() + b"(" + text(a) + b"tRtRa"
    ),
    "memo": lambda m, n, a: f"c{m}\n{n}\n".encode() + b"q\x050h\x05(" + text(a) + b"tR",
    "persistent id": lambda m, n, a: f"c{m}\n{n}\n".encode() + b"(" + text(a) + b"tRQ",
}


def crafted(canary: Path) -> Iterator[tuple[str, str, bytes]]:
    """(what it is, the name that it uses, the pickle)."""
    for (module, name, argument), (way, make) in itertools.product(FOREIGN, WAYS.items()):
        call = make(module, name, argument.format(str(canary)))
        yield way, f"{module}.{name}", b"\x80\x02}" + text("weight") + call + b"s."


def test_no_crafted_file_is_executed(tmp_path) -> None:
    canary = tmp_path / "canary"
    count = 0
    for way, name, content in crafted(canary):
        for write in (archive, legacy):
            path = write(tmp_path / "crafted.pth", content)
            with pytest.raises(UserError) as error:
                TorchFile(path)
            message = str(error.value)
            assert f"crafted.pth names {name}, which is no part of a tensor" in message, (way, name)
            assert not canary.exists()
            count += 1
    assert count == 300


def test_the_crafted_files_would_run_elsewhere(tmp_path) -> None:
    """What makes the test above worth something: Python's own reader executes them."""
    for way, name, content in crafted(tmp_path / "canary"):
        if way == "global reduce" and name == "builtins.exec":
            pickle.loads(content)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\x82\x01", "extension 1 of copyreg"),
        (b"\x83\x01\x01", "extension 257"),
        (b"P1\n", "PERSID"),
        (b"\x8f", "EMPTY_SET"),
        (b"ctorch\nFloatStorage\n)R", "calls torch.FloatStorage"),
        (text("a") + b")R", "calls a str"),
        (text("a") + b"}b", "neither tensor nor dictionary"),
        (b"ccollections\nOrderedDict\n(K\x01tR", "OrderedDict of values"),
        (b"(K\x01K\x02K\x03tQ", "no storage"),
        (b"}]K\x01s", "a list as a key"),
        (b"K\x01K\x02a", "appended to no list"),
        (b"h\x07", "damaged"),
        (b"0000", "damaged"),
        (b"X\xff\xff\xff\x7fa", "longer than 64 MB"),
        (b"\x8b\xff\xff\xff\x7fa", "longer than 64 MB"),
        (b"", "damaged|cut off"),
    ],
)
def test_damaged_pickles_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(pickle_reader.PickleError, match=message):
        pickle_reader.load(io.BytesIO(b"\x80\x02" + content + b"."))


def tensor(shape=(2, 3), strides=(3, 1), offset=0, key="0", numel=6) -> bytes:
    """A pickled dictionary of one tensor."""

    def numbers(values) -> bytes:
        return b"(" + b"".join(pickle.dumps(v, 2)[2:-1] for v in values) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    storage += pickle.dumps(numel, 2)[2:-1] + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers([offset])[1:-1]
    rebuilt += numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + text("weight") + rebuilt + b"s."


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"offset": 1}, "beyond its storage"),
        ({"strides": (4, 1)}, "beyond its storage"),
        ({"shape": (1 << 40, 1 << 40), "strides": (0, 0)}, "beyond its storage"),
        ({"shape": (1 << 62, 3)}, "damaged shape"),
        ({"strides": (-3, 1)}, "damaged shape"),
        ({"strides": (1,)}, "stride too few"),
        ({"shape": (1,) * 40, "strides": (1,) * 40}, "damaged shape"),
        ({"numel": -6}, "unknown kind"),
        ({"numel": 1 << 40}, "cut off"),
        ({"key": "1"}, "storage is missing"),
        ({"key": "../0"}, "storage is missing"),
    ],
)
def test_tensors_lie_inside_their_storage(tmp_path, changes, message: str) -> None:
    data = np.arange(6, dtype=np.float32)
    right = TorchFile(archive(tmp_path / "a.pth", tensor(), [("0", data.tobytes())]))
    np.testing.assert_array_equal(right.read("weight"), data.reshape(2, 3))
    path = archive(tmp_path / "b.pth", tensor(**changes), [("0", data.tobytes())])
    with pytest.raises(UserError, match=message):
        TorchFile(path).read("weight")


@pytest.mark.parametrize(
    "numel, message", [(1 << 62, "damaged"), (-1, "damaged"), (5, "5 numbers")]
)
def test_storages_of_the_older_form_are_checked(tmp_path, numel: int, message: str) -> None:
    data = np.arange(6, dtype=np.float32).tobytes()
    right = TorchFile(legacy(tmp_path / "a.pth", tensor(), [("0", 6, data)]))
    assert right.read("weight").sum() == 15
    with pytest.raises(UserError, match=message):
        TorchFile(legacy(tmp_path / "b.pth", tensor(), [("0", numel, data)])).read("weight")


def test_what_is_compressed_is_refused(tmp_path) -> None:
    path = archive(tmp_path / "a.pth", tensor(), [("0", bytes(1 << 20))], zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="is compressed, as"):
        TorchFile(path)


def test_dictionaries_that_multiply_are_refused(tmp_path) -> None:
    """Ten references to a dictionary of ten references to a dictionary …"""
    content = b"\x80\x02}" + text("a") + tensor()[2:-1] + b"s"
    for _ in range(12):
        content += b"q\x010}(" + b"".join(text(str(i)) + b"h\x01" for i in range(10)) + b"u"
    path = archive(tmp_path / "a.pth", content + b".", [("0", bytes(24))])
    with pytest.raises(UserError, match="too many"):
        TorchFile(path)


def test_a_folder_with_an_index_of_shards_is_one_model(tmp_path) -> None:
    data = np.arange(6, dtype=np.float32).tobytes()
    for number in (1, 2):
        content = tensor().replace(text("weight"), text(f"weight{number}"))
        archive(tmp_path / f"pytorch_model-{number}.bin", content, [("0", data)])
    (tmp_path / "pytorch_model.bin.index.json").write_text(
        '{"weight_map": {"weight1": "pytorch_model-1.bin", "weight2": "pytorch_model-2.bin"}}'
    )
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x02ctransformers\nArguments\n.")
    tensors = Tensors(tmp_path)
    assert set(tensors) == {"weight1", "weight2"} and tensors["weight2"].sum() == 15
    (tmp_path / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(UserError, match=r"several files \(pytorch_model-1\.bin"):
        Tensors(tmp_path)


def test_flax_files_have_the_names_of_torch(tmp_path) -> None:
    random = np.random.RandomState(0)
    tree = {
        "params": {
            "conv": {"kernel": random.normal(size=(3, 4, 5, 6)).astype(np.float32)},
            "dense": {"kernel": random.normal(size=(5, 6)), "bias": np.zeros(6, np.float16)},
            "norm": {"scale": np.ones(6, np.float32)},
        },
        "batch_stats": {"norm": {"mean": np.zeros(6, np.float32), "var": np.ones(6, np.float32)}},
    }
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(serialization.msgpack_serialize(tree))
    tensors = Tensors(tmp_path)
    assert {name: tensors.shape(name) for name in tensors} == {
        "conv.weight": (6, 5, 3, 4), "dense.weight": (6, 5), "dense.bias": (6,),
        "norm.weight": (6,), "norm.running_mean": (6,), "norm.running_var": (6,),
    }  # fmt: skip
    kernel = tree["params"]["conv"]["kernel"]
    assert tensors["conv.weight"][1, 2, 0, 3] == kernel[0, 3, 2, 1]
    for damaged in (b"", b"\xff", path.read_bytes()[:-5], b"\x81\xa1a\xc0", b"\xc7\x03\x01abc"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="flax_model"):
            Tensors(tmp_path)
