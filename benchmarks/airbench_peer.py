"""What airbench94's recipe reaches in PyTorch on the pictures that `cifar10_airbench` trains on.

    python benchmarks/airbench_peer.py --peer_python=/path/to/python --data_dir=DIR

Written after Jordan 2024 (arXiv:2404.00498, sections 3 and 4): whitening, whose bias is trained for
three epochs, partial identities, alternating flip, shifts by two pixels, a triangle for the
learning rate, 64 times as much of it for biases, Lookahead, the mean over six views in evaluation.
The peer needs torch. Where it finds a GPU, it compiles and computes in bfloat16.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RATE, DECAY, MOMENTUM, SMOOTHING = 11.5, 0.0153, 0.85, 0.2
BIAS_RATE, BIAS_EPOCHS = 64, 3
LOOKAHEAD = 5  # steps
KILOSTEP = 1024 * (1 + 1 / (1 - MOMENTUM))
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def pictures(data_dir: str | None, folder: Path) -> None:
    """The prepared data set as arrays: `{split}_{images,labels}.npy` in `folder`."""
    from jaxtag.data.decode import decode
    from jaxtag.datasets import prepared

    for split in ("train", "test"):
        source = prepared.open_split("cifar10", split, data_dir)
        records = source.__getitems__(range(len(source)))
        images = [decode(record["image"]) for record in records]
        np.save(folder / f"{split}_images.npy", np.stack(images))
        np.save(folder / f"{split}_labels.npy", np.array([r["label"] for r in records]))


def train(args: argparse.Namespace) -> None:
    """So many runs, with one seed after the other; on a GPU the first one compiles."""
    import torch

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = gpu
    names = ("train_images", "train_labels", "test_images", "test_labels")
    arrays = (np.load(Path(args.serve) / f"{name}.npy") for name in names)
    images, labels, *held_out = (torch.from_numpy(array).to(device) for array in arrays)
    accuracies = []
    for seed in range(args.seed, args.seed + args.runs):
        torch.manual_seed(seed)
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            model, seconds = run(args, images, labels)
            accuracies.append(accuracy(model, *held_out))
        print(
            f"seed {seed}: top1 {accuracies[-1]:.4f} after {seconds:.2f} s of training", flush=True
        )
    mean, deviation = np.mean(accuracies), np.std(accuracies)
    print(f"{len(accuracies)} seeds: top1 {mean:.4f}, deviation {deviation:.4f}")


def run(args: argparse.Namespace, images, labels):
    """(the trained model, seconds that its training took)."""
    import torch
    from torch.nn import functional as F

    model = network(images[:5000])
    called = torch.compile(model) if images.is_cuda else model
    whiten = model.body[0]
    batch, steps_an_epoch = args.batch, len(images) // args.batch
    total = math.ceil(args.epochs * steps_an_epoch)
    optimizer, schedule = optimizer_of(model, batch, total)
    lookahead = Lookahead(model)
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    start, step = time.perf_counter(), 0
    pixels = normalized(images)
    while step < total:
        epoch, step_of_epoch = divmod(step, steps_an_epoch)
        if step_of_epoch == 0:
            order = torch.randperm(len(images), device=images.device)
            whiten.bias.requires_grad = epoch < BIAS_EPOCHS
            shown = moved(pixels, mirrored ^ bool(epoch % 2))
        chosen = order[step_of_epoch * batch :][:batch]
        loss = F.cross_entropy(
            called(shown[chosen]), labels[chosen], label_smoothing=SMOOTHING, reduction="sum"
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        step += 1
        if step % LOOKAHEAD == 0:
            lookahead.step(0.95**LOOKAHEAD * (step / total) ** 3)
        if not images.is_cuda and (step % steps_an_epoch == 0 or step == total):
            took = time.perf_counter() - start
            print(f"step {step}/{total}: loss {loss.item() / batch:.3f}, {took:.0f} s", flush=True)
    lookahead.step(1.0)
    loss.item()  # everything has ended
    return model, time.perf_counter() - start


def normalized(images):
    """uint8 [B, H, W, 3] to float [B, 3, H, W]."""
    import torch

    mean, std = (torch.tensor(x, device=images.device).view(1, 3, 1, 1) for x in (MEAN, STD))
    x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
    return x.contiguous(memory_format=torch.channels_last)


def network(some):
    """The network as it starts; `some`: training pictures, for the whitening."""
    import torch
    import torch_zoo
    from torch import nn

    model = torch_zoo.Airbench(10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.eps = 0.4, 1e-12  # torch's: 1 minus the paper's 0.6
            module.weight.requires_grad = False
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.dirac_(module.weight.data[: module.in_channels])
    model = model.to(some.device, memory_format=torch.channels_last).train()
    model.body[0].weight.data[:] = whitening(normalized(some))
    model.body[0].weight.requires_grad = False
    return model


def optimizer_of(model, batch: int, total: int):
    """SGD, and its learning rate: a triangle over `total` steps."""
    import torch

    rate, decay = RATE / KILOSTEP, DECAY * batch / KILOSTEP
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if (p.ndim == 1) is bias], "lr": own}
        | {"weight_decay": decay / own}
        for bias, own in ((True, rate * BIAS_RATE), (False, rate))
    ]
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)
    turns = [0, round(0.23 * total), total]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: float(np.interp(step, turns, [0.2, 1, 0.07]))
    )
    return optimizer, schedule


class Lookahead:
    """Slow values that go a part of the way to the fast ones, which then take theirs."""

    def __init__(self, model):
        self._model = model
        self._slow = {name: value.clone() for name, value in model.state_dict().items()}

    def step(self, decay: float) -> None:
        for name, value in self._model.state_dict().items():
            if value.is_floating_point():
                self._slow[name].lerp_(value, 1 - decay)
                value.copy_(self._slow[name])


def accuracy(model, images, labels) -> float:
    import torch

    model.eval()
    with torch.no_grad():
        hits = sum(
            int((views(model, normalized(some)).argmax(1) == right).sum())
            for some, right in zip(images.split(500), labels.split(500), strict=True)
        )
    return hits / len(labels)


def whitening(images):
    """The first convolution's kernel (section 3.2), largest variance first."""
    import torch

    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    patches = patches.double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    scaled = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(12, 3, 2, 2)
    return torch.cat([scaled, -scaled]).float()


def moved(x, mirrored):
    """Each picture mirrored or not, and shifted by up to two pixels (reflected at the border)."""
    import torch
    from torch.nn import functional as F

    x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
    padded = F.pad(x, (2,) * 4, "reflect").contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    shifts = torch.randint(0, 5, (2, len(x)), device=x.device)
    for down in range(5):
        for right in range(5):
            here = (shifts[0] == down) & (shifts[1] == right)
            out[here] = padded[here, :, down : down + 32, right : right + 32]
    return out


def views(model, x):
    """Logits: half of the picture and its mirror image, half of both shifted by a pixel."""
    from torch.nn import functional as F

    def both(x):
        return (model(x) + model(x.flip(-1))) / 2

    padded = F.pad(x, (1,) * 4, "reflect")
    shifted = [both(padded[..., i : i + 32, i : i + 32]) for i in (0, 2)]
    return both(x) / 2 + sum(shifted) / 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", help="a Python with torch")
    parser.add_argument("--data_dir", help="where cifar10 is prepared")
    parser.add_argument("--epochs", type=float, default=9.9)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        train(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        pictures(args.data_dir, Path(folder))
        subprocess.run([args.peer_python, *sys.argv, "--serve", folder], check=True)


if __name__ == "__main__":
    main()
