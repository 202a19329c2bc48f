"""The batches of an evaluation: every example of a split once, on any number of processes."""

from collections.abc import Iterator

from jax.sharding import Mesh

from jaxtag.config.schema import Config
from jaxtag.data import pipeline
from jaxtag.data.sources import Source
from jaxtag.distributed import mesh as meshes
from jaxtag.distributed import watchdog

_PATIENCE = 10  # times config.hang_timeout: the first batch compiles


def of(
    source: Source, config: Config, example: pipeline.ExampleSpec, mesh: Mesh
) -> Iterator[pipeline.Batch]:
    """This process's share, as `pipeline.eval_batches` gives it."""
    batches = pipeline.eval_batches(
        source,
        example=example,
        batch_size=config.evaluation.batch_size,
        rows=meshes.local_row_indices(mesh, config.evaluation.batch_size),
        workers=config.data.num_workers,
        threads=config.data.num_threads,
    )
    for batch in batches:
        watchdog.expect(_PATIENCE * config.hang_timeout)
        yield batch
