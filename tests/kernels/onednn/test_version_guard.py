"""oneDNN is off, with one warning, where a version is not known: XLA computes in its place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag.kernels import conv
from jaxtag.kernels.batch_norm import BatchNorm
from jaxtag.kernels.onednn import convolution, ffi, library

pytestmark = pytest.mark.skipif(
    library.load() is None, reason="oneDNN's package is for Linux on x86-64"
)

UNKNOWN = {
    "XLA's FFI API has version (1, 0)": (ffi, "api_version", lambda: (1, 0)),
    "XLA's FFI API has version None": (ffi, "api_version", lambda: None),
    "oneDNN has version 4": (library, "_major", lambda dll: 4),
}


@pytest.fixture(params=UNKNOWN)
def unknown_version(request, monkeypatch):
    """The message of a version that the library or jaxlib is made to have."""
    monkeypatch.setattr(*UNKNOWN[request.param])
    library.load.cache_clear()
    yield request.param
    library.load.cache_clear()


def test_the_installed_versions_are_known() -> None:
    assert ffi.api_version() in ffi.KNOWN_VERSIONS
    assert library.load() is library.get()


def test_one_warning_and_the_results_of_xla(unknown_version: str, caplog) -> None:
    rng = np.random.RandomState(0)
    x = jnp.asarray(rng.randn(2, 9, 8, 32), jnp.float32)
    kernel = jnp.asarray(rng.randn(3, 3, 32, 16), jnp.float32)
    geometry = {"stride": 1, "padding": ((1, 1), (1, 1)), "groups": 1}

    def loss(convolve):
        return lambda x, kernel: jnp.square(convolve(x, kernel, **geometry)).sum()

    with caplog.at_level("WARNING"):
        gradients = jax.jit(jax.grad(lambda x, k: loss(conv.convolve)(x, k), (0, 1)))
        program = gradients.lower(x, kernel).as_text()
        results = gradients(x, kernel)
        images = jnp.asarray(rng.randn(4, 64, 64, 16), jnp.float32)
        BatchNorm().init_with_output(jax.random.key(0), images, True)
    assert convolution.TARGET not in program
    expected = jax.grad(loss(conv.native), (0, 1))(x, kernel)
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, right, rtol=1e-4, atol=1e-3)
    (record,) = [record for record in caplog.records if "oneDNN" in record.getMessage()]
    assert unknown_version in record.getMessage()


def test_a_header_without_a_version_is_an_unknown_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ffi.jax.ffi, "include_dir", lambda: str(tmp_path))
    assert ffi.api_version() is None
    header = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define XLA_FFI_API_MAJOR 0\n")
    assert ffi.api_version() is None
    header.write_text("#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 7\n")
    assert ffi.api_version() == (0, 7)
