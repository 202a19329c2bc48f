"""What every test needs: 8 CPU devices, a compilation cache, checked types, the real data."""

import gc
import os
import sys
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # On a busy machine 8 devices on a few cores wait for each other longer than the 40 seconds
    # after which XLA ends the process.
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    # Fusions through MLIR double the time of compiling, which is most of what tests do.
    + " --xla_cpu_use_fusion_emitters=false"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.pop("TFDS_DATA_DIR", None)  # tests know no data but their own
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "jaxtag-test-compilation-cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Programs of tests are small and run a few times: LLVM's optimizations would take longer than they
# save. The processes that tests start inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jaxtyping
import pytest
from absl import flags

# Checks the annotated types and shapes of every call, before jaxtag is imported.
jaxtyping.install_import_hook(
    ["jaxtag.augment", "jaxtag.kernels", "jaxtag.losses", "jaxtag.metrics", "jaxtag.models"],
    "typechecking.check",
)

if not flags.FLAGS.is_parsed():  # grain's worker processes read absl flags
    flags.FLAGS(["pytest"])


# Files with few tests and much time, the longest first: none of them is left to the end, when the
# other of two processes has nothing to do. (By itself pytest-xdist puts files with few tests last.)
LONG_FILES = (
    *("test_train_processes.py", "test_docs.py", "test_end_to_end.py", "test_stores.py"),
    *("test_resume.py", "test_style.py", "test_sharding.py", "test_self_critical.py"),
    *("test_loop.py", "test_tag_prompt.py", "test_ends.py", "test_golden.py", "test_extension.py"),
    *("test_shards.py", "test_round_trip.py", "test_step_profiler.py", "test_profile.py"),
)

gc.set_threshold(50_000, 20, 20)  # tracing makes many objects, few of them in cycles


def pytest_configure(config):
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets named by $JAXTAG_TEST_DATA; the test is skipped without it."""
    folder = os.environ.get("JAXTAG_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data: set JAXTAG_TEST_DATA to the folder that holds them")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def freed_memory_is_given_back():
    """Commands that tests run in this process would otherwise keep what they free, for ever."""
    from jaxtag import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_keep_freed_memory", lambda: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """The user's cache folder, where features are kept, is the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def programs_are_dropped():
    """Compiled programs of a file of tests end with it: a process of the suite stays small."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="module")
def optimized_compilation():
    """Programs compiled as users' are: where a test is about what the compiler makes of them."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def fused_as_usual():
    """Programs fused as users' are: where two of them, or one of another time, must agree."""
    from jax._src import compiler

    original = compiler.get_compile_options

    def get_compile_options(*args, env_options_overrides=None, **kwargs):
        options = {"xla_cpu_use_fusion_emitters": True, **(env_options_overrides or {})}
        return original(*args, env_options_overrides=options, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", get_compile_options)
        yield


@pytest.fixture(scope="module")
def one_device():
    """XLA's collectives between 8 CPU devices on few cores can stall beside convolutions."""
    import jax

    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: first)
        yield


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data directory with the data set `tiny`: 28 coloured pictures with two captions each."""
    import json

    from PIL import Image

    from jaxtag import datasets

    source = tmp_path_factory.mktemp("tiny_source")
    colours = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
    lines = []
    for number in range(28):
        name, colour = list(colours.items())[number % 3]
        size = 40 + number
        picture = Image.new("RGB", (size, 48), colour)
        picture.paste((250, 250, 250), (0, 0, 10 + number // 3, 20))
        picture.save(source / f"{number:02}.jpg", quality=90)
        for caption in (f"a {name} field", f"picture {number // 3} is {name}"):
            split = "train" if number < 16 else "validation" if number < 24 else "test"
            lines.append({"file": f"{number:02}.jpg", "caption": caption, "split": split})
    (source / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path_factory.mktemp("tiny_data")
    datasets.prepare("tiny", source, folder)
    return folder


@pytest.fixture(scope="session")
def own_config(tiny_data, tmp_path_factory) -> str:
    """What to give as --config for a small run on `tiny`, as a user's own file."""
    path = tmp_path_factory.mktemp("configs") / "own.py"
    path.write_text(
        "from tiny import tiny_config\n"
        f"def get_config(data_dir: str = {str(tiny_data)!r}):\n"
        "    rhythm = {'log_every': 20, 'evaluate_every': 60, 'checkpoint_every': 60}\n"
        "    return tiny_config(data_dir, total_steps=60, **rhythm)\n"
    )
    return str(path)


@pytest.fixture(scope="session")
def tiny_run(own_config, tmp_path_factory) -> Path:
    """The work directory of a finished `jaxtag.train`, for reading only; its captions vary.

    Trained on all devices, by programs without optimizations, whichever file asks for it first.
    """
    import jax
    from calling import call

    workdir = tmp_path_factory.mktemp("tiny_run")
    unoptimized = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", jax.local_devices)
        done = call("train", f"--config={own_config}", f"--workdir={workdir}")
    jax.config.update("jax_disable_most_optimizations", unoptimized)
    assert done.status == 0, done.err
    return workdir


@pytest.fixture(scope="session")
def gcs_server():
    """A fake of Cloud Storage for the session, which this process's clients reach."""
    pytest.importorskip("gcsfs")
    from fake_gcs import FakeGcs

    with FakeGcs(["bucket"]) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def gcs(gcs_server):
    """The fake of Cloud Storage without objects, faults and counts."""
    gcs_server.clear()
    return gcs_server
