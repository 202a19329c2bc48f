"""The batches of an evaluation: every example of a split once, on any number of processes."""

import jax

from jaxtag.config import Config
from jaxtag.data import pipeline
from jaxtag.data.sources import Source


def of(source: Source, config: Config, example: pipeline.Example) -> pipeline.BatchIterator:
    """This process's share, as `pipeline.eval_batches` gives it."""
    return pipeline.eval_batches(
        source,
        example=example,
        batch_size=config.evaluation.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.data.workers,
        threads=config.data.threads,
    )
