"""Training step and inference of the model zoo, beside PyTorch, on CPU.

    python benchmarks/zoo_step.py --peer_python=/path/to/python --models=resnet50,capsnet

The peer needs torch and transformers. float32, SGD with Nesterov momentum; PyTorch runs with
whichever of its two memory layouts is faster. Both sides are pinned to the same cores and take
turns.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import turns

# name: (batch, pixels, channels, classes)
MODELS = {
    "resnet50": (8, 224, 3, 1000),
    "mobilenet_v2": (8, 224, 3, 1000),
    "efficientnet_b0": (8, 224, 3, 1000),
    "vit_small_patch16": (8, 224, 3, 1000),
    "capsnet": (32, 28, 1, 10),
    "airbench": (128, 32, 3, 10),
}
RATE, MOMENTUM = 1e-3, 0.9


def inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    batch, size, channels, classes = MODELS[name]
    rng = np.random.RandomState(0)
    images = rng.rand(batch, size, size, channels).astype(np.float32)
    return images, rng.randint(0, classes, batch)


def theirs(args: argparse.Namespace) -> None:
    import torch
    import torch_zoo

    torch.set_num_threads(args.threads)
    images, labels = inputs(args.model)
    labels = torch.from_numpy(labels)
    runs = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        model, loss_of = torch_zoo.build(args.model, MODELS[args.model][3])
        model = model.to(memory_format=layout)
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        pixels = pixels.contiguous(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, nesterov=True)

        def train(model=model, loss_of=loss_of, pixels=pixels, optimizer=optimizer) -> None:
            model.train()
            optimizer.zero_grad(set_to_none=True)
            loss_of(model, pixels, labels).backward()
            optimizer.step()

        def infer(model=model, pixels=pixels) -> None:
            model.eval()
            with torch.no_grad():
                model(pixels)

        for what, run in (("train", train), ("infer", infer)):
            run()
            seconds = min(turns.seconds(run) for _ in range(2))
            if what not in runs or seconds < runs[what][0]:
                runs[what] = seconds, run
    turns.serve(lambda what: turns.seconds(runs[what][1]))


def ours(name: str):
    """(training step, inference) as functions without arguments, compiled."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxtag import models
    from jaxtag.tasks import backbones
    from jaxtag.tasks.margin import margin_loss

    images, labels = (jnp.asarray(x) for x in inputs(name))
    model = models.create(name, num_classes=MODELS[name][3])
    optimizer = optax.sgd(RATE, momentum=MOMENTUM, nesterov=True)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    params = variables.pop("params")

    def loss_of(params, collections):
        variables = {"params": params, **collections}
        outputs, changed = backbones.apply(model, variables, images, key=jax.random.key(1))
        logits = outputs["logits"]
        if name == "capsnet":
            return margin_loss(logits, labels).mean(), changed
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), changed

    def update(state):
        params, collections, moments = state
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (_, collections), grads = gradient(params, collections)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), collections, moments

    state = [(params, variables, optimizer.init(params))]
    step = jax.jit(update, donate_argnums=0).lower(state[0]).compile()
    predict = jax.jit(lambda v: model.apply(v, images)["logits"])

    def train():
        state[0] = jax.block_until_ready(step(state[0]))

    def infer():
        predict({"params": state[0][0], **state[0][1]}).block_until_ready()

    return train, infer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", help="a Python with torch and transformers")
    parser.add_argument("--models", default=",".join(MODELS), help="names, with commas")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--threads", type=int, default=2, help="cores that both sides may use")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    turns.pin(args.threads)
    if args.serve:
        theirs(args)
        return
    for name in args.models.split(","):
        measure(args, name)


def measure(args: argparse.Namespace, name: str) -> None:
    more = ("--model", name)
    with tempfile.TemporaryDirectory() as folder, turns.peer(args, Path(folder), *more) as ask:
        start = time.perf_counter()
        runs = dict(zip(("train", "infer"), ours(name), strict=True))
        print(f"{name}: compiled in {time.perf_counter() - start:.1f} s")
        for what, run in runs.items():
            run()
            times = [(turns.seconds(run), ask(what)) for _ in range(args.rounds)]
            turns.report(f"{name} {what}", *map(list, zip(*times, strict=True)))


if __name__ == "__main__":
    main()
