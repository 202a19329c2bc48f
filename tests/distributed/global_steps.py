"""What depends on the arrays of all processes, for test_global_batch.py.

    python global_steps.py FLAGS

Process 0 prints one object, {name: numbers}: of a step whose result depends on the whole batch, the
losses of three and then the norm of the parameters; of a search, the scores and the rows found.
"""

import dataclasses
import json
import sys

from absl import flags

from jaxtag import cli


def configurations() -> dict:
    """Global batch statistics, statistics of groups, negatives of all devices, accumulation."""
    from shrinking import shrink, with_batch_norm

    from jaxtag.config import flags as config_flag
    from jaxtag.config.schema import ModelConfig, OptimizerConfig

    plain = OptimizerConfig(name="sgd", learning_rate=0.5, grad_clip_norm=None)
    small = ModelConfig(backbone="airbench94", kwargs={"widths": (8,)})
    embed = shrink(config_flag.load("cifar10_embed"))
    embed = dataclasses.replace(
        embed,
        task=dataclasses.replace(embed.task, loss="triplet_all"),
        batch_size=24,
        data=dataclasses.replace(embed.data, image_size=9, flip=False),
        model=small,
        optimizer=plain,
    )
    accumulating = shrink(config_flag.load("cifar10_resnet18"))
    accumulating = dataclasses.replace(
        accumulating,
        batch_size=32,
        data=dataclasses.replace(accumulating.data, image_size=16),
        model=small,
        optimizer=dataclasses.replace(plain, grad_accum_steps=4),
    )
    return {
        "statistics of the batch": with_batch_norm(1),
        "statistics of groups": with_batch_norm(4),
        "negatives of all": embed,
        "accumulation": accumulating,
    }


def run(config) -> list[float]:
    import jax
    import numpy as np
    import optax
    from shrinking import batch, make_task

    from jaxtag.distributed.mesh import local_row_indices, make_global_batch, replicated
    from jaxtag.training.setup import TrainSetup

    plan = TrainSetup.from_config(config, make_task(config, 5), 64)
    state, losses = plan.initialize(), []
    for number in range(3):
        rows = batch(config, number)
        rows["label"] %= 5
        rows["mask"][7] = 0
        own = local_row_indices(plan.mesh, config.batch_size)
        arrays = {name: value[own] for name, value in rows.items()}
        state, metrics = plan.step(state, make_global_batch(arrays, plan.mesh))
        total, count = metrics["loss"]
        losses.append(float(total) / float(count))
    norm = jax.jit(optax.tree.norm, out_shardings=replicated(plan.mesh))(state.params)
    return [*losses, float(np.asarray(norm))]


def neighbours() -> list[float]:
    """Of five queries among rows that all devices share, after some have gone."""
    import numpy as np

    from jaxtag.tag_index import VectorIndex

    rng = np.random.RandomState(0)
    rows = VectorIndex(dimension=24, metric="euclidean")
    rows.add(rng.randn(1500, 24))
    rows.remove(np.arange(0, 1500, 7))
    rows.add(rng.randn(100, 24))
    scores, numbers = rows.search(rng.randn(5, 24), 10)
    return [*scores.ravel().tolist(), *numbers.ravel().tolist()]


def main() -> None:
    with cli.join_job():
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
        values = {name: run(config) for name, config in configurations().items()}
        values["neighbours"] = neighbours()
        if jax.process_index() == 0:
            print(json.dumps(values))


if __name__ == "__main__":
    cli.define_process_flags()
    flags.FLAGS(sys.argv)
    main()
