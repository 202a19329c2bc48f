"""Training step and inference of the model zoo, beside PyTorch, on CPU or on a GPU.

    python benchmarks/zoo_step.py --peer_python=/path/to/python --models=resnet50,capsnet
    python benchmarks/zoo_step.py --peer_python=/path/to/python --device=gpu

On CPU the peer needs torch and transformers, and runs in float32 with whichever of its two memory
layouts is faster; both sides are pinned to the same cores. On a GPU it needs torch and timm, and
trains compiled (`torch.compile`), in bfloat16 (autocast) and with channels last. SGD with Nesterov
momentum. Both sides take turns: a step that is not counted, which wakes threads and caches, and
those that are.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import turns

# device: {name: (batch, pixels, channels, classes)}
MODELS = {
    "cpu": {
        "resnet50": (8, 224, 3, 1000),
        "mobilenet_v2": (8, 224, 3, 1000),
        "efficientnet_b0": (8, 224, 3, 1000),
        "vit_small_patch16": (8, 224, 3, 1000),
        "capsnet": (32, 28, 1, 10),
        "airbench94": (128, 32, 3, 10),
    },
    "gpu": {
        "resnet50": (256, 224, 3, 1000),
        "resnet152": (256, 224, 3, 1000),
        "efficientnet_b0": (256, 224, 3, 1000),
        "efficientnet_b4": (128, 380, 3, 1000),
        "vit_base_patch16": (256, 224, 3, 1000),
        "vit_base_patch16_gap": (256, 224, 3, 1000),
        "capsnet": (1024, 28, 1, 10),
        "airbench94": (1000, 32, 3, 10),
    },
}
# Not by a name of the registry: that and arguments.
VARIANTS = {"vit_base_patch16_gap": ("vit_base_patch16", {"class_token": False, "pool": "gap"})}
STEPS = {"cpu": 3, "gpu": 20}  # of a turn
RATE, MOMENTUM = 1e-3, 0.9


def inputs(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    batch, size, channels, classes = MODELS[args.device][args.model]
    rng = np.random.RandomState(0)
    images = rng.rand(batch, size, size, channels).astype(np.float32)
    return images, rng.randint(0, classes, batch)


def theirs(args: argparse.Namespace) -> None:
    import torch
    import torch_zoo

    gpu = args.device == "gpu"
    device = torch.device("cuda" if gpu else "cpu")
    torch.set_num_threads(args.threads)
    if gpu:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    images, labels = inputs(args)
    labels = torch.from_numpy(labels).to(device)
    layouts = (torch.channels_last,) if gpu else (torch.contiguous_format, torch.channels_last)
    runs = {}
    for layout in layouts:
        classes = MODELS[args.device][args.model][3]
        model, loss_of = torch_zoo.build(args.model, classes, timm=gpu)
        model = model.to(device, memory_format=layout)
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        pixels = pixels.to(device).contiguous(memory_format=layout)
        optimizer = torch.optim.SGD(
            model.parameters(), RATE, momentum=MOMENTUM, nesterov=True, fused=gpu
        )
        called = torch.compile(model) if gpu else model

        def train(steps, model=called, loss_of=loss_of, pixels=pixels, optimizer=optimizer) -> None:
            model.train()
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
                    loss = loss_of(model, pixels, labels)
                loss.backward()
                optimizer.step()
            if gpu:
                torch.cuda.synchronize()

        def infer(steps, model=model, pixels=pixels) -> None:
            model.eval()
            with torch.no_grad():
                for _ in range(steps):
                    model(pixels)

        for what, run in (("train", train),) if gpu else (("train", train), ("infer", infer)):
            seconds = min(turn(run, args) for _ in range(2))
            if what not in runs or seconds < runs[what][0]:
                runs[what] = seconds, run
    turns.serve(lambda what: turn(runs[what][1], args))


def ours(args: argparse.Namespace) -> dict[str, Callable[[int], None]]:
    """So many training steps and, on CPU, inferences, compiled."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxtag import models
    from jaxtag.losses.classification import margin_loss
    from jaxtag.tasks import common

    name, gpu = args.model, args.device == "gpu"
    images, labels = (jnp.asarray(x) for x in inputs(args))
    dtype = jnp.bfloat16 if gpu else jnp.float32
    registered, arguments = VARIANTS.get(name, (name, {}))
    classes = MODELS[args.device][name][3]
    model = models.create_model(registered, num_classes=classes, dtype=dtype, **arguments)
    optimizer = optax.sgd(RATE, momentum=MOMENTUM, nesterov=True)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    params = variables.pop("params")

    def loss_of(params, collections, images, labels):
        variables = {"params": params, **collections}
        outputs, changed = common.apply_model(model, variables, images, key=jax.random.key(1))
        logits = outputs["logits"]
        if name == "capsnet":
            return margin_loss(logits, labels).mean(), changed
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), changed

    def update(state, images, labels):
        params, collections, moments = state
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (_, collections), grads = gradient(params, collections, images, labels)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), collections, moments

    state = [(params, variables, optimizer.init(params))]
    step = jax.jit(update, donate_argnums=0).lower(state[0], images, labels).compile()
    predict = jax.jit(lambda v: model.apply(v, images)["logits"])

    def train(steps: int) -> None:
        for _ in range(steps):
            state[0] = step(state[0], images, labels)
        jax.block_until_ready(state[0])

    def infer(steps: int) -> None:
        for _ in range(steps):
            predict({"params": state[0][0], **state[0][1]}).block_until_ready()

    return {"train": train} if gpu else {"train": train, "infer": infer}


def turn(run: Callable[[int], None], args: argparse.Namespace) -> float:
    """Seconds a step."""
    run(1)
    steps = STEPS[args.device]
    return turns.seconds(lambda: run(steps)) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", help="a Python with torch, and transformers or timm")
    parser.add_argument("--device", choices=list(MODELS), default="cpu")
    parser.add_argument("--models", help="names, with commas; default: all of the device")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--threads", type=int, default=2, help="CPU cores that both sides may use")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "gpu":
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the peer needs memory too
    else:
        turns.pin(args.threads)
    if args.serve:
        theirs(args)
        return
    for name in args.models.split(",") if args.models else MODELS[args.device]:
        args.model = name
        measure(args)


def measure(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    runs = ours(args)  # before the peer starts: on a GPU, XLA times the kernels that it may choose
    print(f"{args.model}: compiled in {time.perf_counter() - start:.1f} s", flush=True)
    more = ("--model", args.model)
    with tempfile.TemporaryDirectory() as folder, turns.peer(args, Path(folder), *more) as ask:
        compare(args, runs, ask)


def compare(args: argparse.Namespace, runs: dict, ask: Callable[[str], float]) -> None:
    for what, run in runs.items():
        ask(what)
        times = [(turn(run, args), ask(what)) for _ in range(args.rounds)]
        mine, peers = map(list, zip(*times, strict=True))
        turns.report(f"{args.model} {what}", mine, peers)
        images = MODELS[args.device][args.model][0]
        best = [images / min(times) for times in (mine, peers)]
        print(
            f"{args.model} {what}: images/s at best {best[0]:,.0f}, peer {best[1]:,.0f}", flush=True
        )


if __name__ == "__main__":
    main()
