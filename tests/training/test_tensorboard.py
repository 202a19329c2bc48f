"""TensorBoard files read back as TensorBoard reads them."""

import io

import numpy as np
import pytest
from PIL import Image
from tensorboardX import proto

from jaxtag.config import Config
from jaxtag.training.metric_writer import RunInfo, TensorBoardWriter


def events(folder) -> list:
    records = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:  # length (8 bytes), its check sum (4), the event, its check sum (4)
            size = int.from_bytes(data[:8], "little")
            records.append(proto.event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return records


def opened(workdir, start_step: int) -> TensorBoardWriter:
    writer = TensorBoardWriter()
    writer.open(RunInfo(workdir, start_step, 10, Config(total_steps=10)))
    return writer


def test_scalars_and_captioned_pictures_come_back(tmp_path):
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    writer = opened(tmp_path, 0)
    writer.write_scalars(3, "train", {"loss": 1.5, "speed": np.float32(2)})
    writer.write_image(7, "captions/0", image, "a dog — 日本")
    writer.close()
    values = [
        (event.step, value) for event in events(tmp_path / "board") for value in event.summary.value
    ]
    scalars = {v.tag: (step, v.simple_value) for step, v in values if v.HasField("simple_value")}
    assert scalars == {"train/loss": (3, 1.5), "train/speed": (3, 2.0)}
    [(step, shown)] = [(step, v) for step, v in values if v.HasField("image")]
    pixels = np.asarray(Image.open(io.BytesIO(shown.image.encoded_image_string)))
    np.testing.assert_array_equal(pixels, image)
    [(text_step, text)] = [(step, v) for step, v in values if v.tensor.string_val]
    assert text.tensor.string_val[0].decode() == "a dog — 日本"
    assert (step, text_step) == (7, 7)


@pytest.mark.parametrize("start_step", [0, 4])
def test_a_resumed_run_hides_what_it_repeats(tmp_path, start_step):
    """One that was killed before its first checkpoint begins anew, and repeats all."""
    writer = opened(tmp_path, start_step)
    writer.write_scalars(5, "train", {"loss": 1.0})
    writer.close()
    starts = [
        e
        for e in events(tmp_path / "board")
        if e.session_log.status == proto.event_pb2.SessionLog.START
    ]
    assert [event.step for event in starts] == [start_step + 1]
