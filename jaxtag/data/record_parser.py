"""Parsers of stored records (`tf.train.Example`, as tfds writes them) into Python values."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

Parser = Callable[[bytes], dict[str, Any]]


def make_parser(features: Mapping[str, Any]) -> Parser | None:
    """A function that parses a record without tfds; None where a feature is only tfds's.

    tfds's own parser takes several times as long for these features, as long as decoding a small
    JPEG.
    """
    readers = {name: _reader(feature) for name, feature in features.items()}
    direct = {name: reader for name, reader in readers.items() if reader is not None}
    if len(direct) < len(readers):
        return None

    def parse(record: bytes) -> dict[str, Any]:
        fields = tf_example_pb2.Example.FromString(record).features.feature
        return {name: read(fields[name]) for name, read in direct.items()}

    return parse


def make_tfds_parser(features: tfds.features.FeaturesDict) -> Parser:
    """A function that parses any record by tfds, images left encoded."""
    images = {n: f for n, f in features.items() if isinstance(f, tfds.features.Image)}
    decoders = {name: tfds.decode.SkipDecoding() for name in images}

    def parse(record: bytes) -> dict[str, Any]:
        values = features.deserialize_example_np(record, decoders=decoders)
        return {name: _plain(features[name], value) for name, value in values.items()}

    return parse


def _reader(feature: Any) -> Callable[[Any], Any] | None:
    """Reads a feature from its field of a `tf.train.Example`; None for what only tfds can read."""
    kind = type(feature)
    if kind is tfds.features.Image:
        return lambda field: field.bytes_list.value[0]
    if kind is tfds.features.Text:
        return lambda field: decode_text(field.bytes_list.value[0])
    if kind is tfds.features.Sequence and type(feature.feature) is tfds.features.Text:
        return lambda field: [decode_text(value) for value in field.bytes_list.value]
    if kind is tfds.features.Sequence and type(feature.feature) is tfds.features.ClassLabel:
        return lambda field: list(field.int64_list.value)
    if kind is tfds.features.ClassLabel or (
        kind is tfds.features.Scalar and feature.np_dtype == np.int64
    ):
        return lambda field: field.int64_list.value[0]
    return None


def _plain(feature: Any, value: Any) -> Any:
    """Texts as `str`, as `_reader` gives them."""
    if isinstance(feature, tfds.features.Text):
        return decode_text(value)
    if isinstance(feature, tfds.features.Sequence) and isinstance(
        feature.feature, tfds.features.Text
    ):
        return [decode_text(item) for item in value]
    return value


def decode_text(value: bytes) -> str:
    """Text of stored bytes; what is not UTF-8 becomes U+FFFD."""
    return value.decode("utf-8", "replace")
