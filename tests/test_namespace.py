"""What `import jaxtag` offers."""

import importlib
import subprocess
import sys

import jaxtag


def test_every_name_is_there():
    for name in jaxtag.__all__:
        assert getattr(jaxtag, name) is not None
    assert set(jaxtag.__all__) <= set(dir(jaxtag))


def test_evaluate_stays_a_function_beside_the_command():
    command = importlib.import_module("jaxtag.evaluate")
    assert callable(command.run)
    assert jaxtag.evaluate is importlib.import_module("jaxtag.api").evaluate


def test_importing_jaxtag_imports_no_jax():
    code = "import jaxtag, sys; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
