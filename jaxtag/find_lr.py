"""Finds a learning rate: trains with a rising one and plots the loss.

    python -m jaxtag.find_lr --config=flickr8k_caption --output=lr

The learning rate rises exponentially from --min_lr to --max_lr over --num_steps steps (Smith 2017,
arXiv:1506.01186, section 3.3), from fresh parameters. Writes OUTPUT/lr.svg, a plot of the smoothed
loss, and OUTPUT/lr.json, the points and the suggestion: the rate where the loss falls fastest. The
last line on stdout is one JSON object with `suggested_learning_rate`.
"""

import json

from absl import flags

from jaxtag import cli
from jaxtag.config import flags as config_flags
from jaxtag.errors import UsageError
from jaxtag.storage.paths import make_path

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    flags.DEFINE_string("output", None, "Folder to write.")
    flags.DEFINE_integer("num_steps", 100, "Steps to train.", lower_bound=10)
    flags.DEFINE_float("min_lr", 1e-6, "Learning rate of the first step.", lower_bound=1e-12)
    flags.DEFINE_float("max_lr", 1.0, "Learning rate of the last step.")


def main(_: list[str]) -> None:
    from jaxtag.training import lr_finder  # after the flags: --help is quick

    config = cli.required_config()
    cli.require("output", ": the folder for the plot")
    if FLAGS.max_lr <= FLAGS.min_lr:
        raise UsageError(f"--max_lr={FLAGS.max_lr:g} must be above --min_lr={FLAGS.min_lr:g}")
    result = lr_finder.find_lr(
        config, make_path(FLAGS.output, "--output"), FLAGS.num_steps, FLAGS.min_lr, FLAGS.max_lr
    )
    print(f"plot: {result.plot}")
    print(json.dumps({"suggested_learning_rate": result.suggestion}))


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
