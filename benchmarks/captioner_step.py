"""Time of a training step of the captioner (float32, AdamW), beside transformers in PyTorch.

    python benchmarks/captioner_step.py --peer_python=/path/to/python

The same weights, pictures and captions on both sides; the first losses must agree.
"""

import tempfile
from pathlib import Path

import captioner_peer as common
import numpy as np
import turns


def batch_of(args) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    images = random.randn(args.batch, args.image_size, args.image_size, 3).astype(np.float32)
    tokens = random.randint(3, common.VOCABULARY, (args.batch, args.length + 1))
    tokens[:, 0] = common.BOS
    return images, tokens.astype(np.int32)


def theirs(args) -> None:
    import torch

    model = common.peer_model(args, args.dropout).train()
    model.save_pretrained(args.serve)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    images, tokens = batch_of(args)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    tokens = torch.from_numpy(tokens.astype(np.int64))
    losses = []

    def step() -> None:
        optimizer.zero_grad()
        output = model(
            pixel_values=pixels, decoder_input_ids=tokens[:, :-1], labels=tokens[:, 1:].contiguous()
        )
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())

    turns.serve(lambda word: losses if word == "losses" else turns.seconds(step))


def main() -> None:
    parser = common.arguments(__doc__.splitlines()[0], batch=8, length=24)
    parser.add_argument("--dropout", type=float, default=0.0, help="of the decoder, both sides")
    args = parser.parse_args()
    turns.pin(args.threads)
    if args.serve:
        theirs(args)
        return
    import jax
    import optax

    with tempfile.TemporaryDirectory() as folder, turns.peer(args, Path(folder)) as ask:
        ask("step")
        model, params = common.our_model(args, Path(folder), args.dropout)
        images, tokens = (jax.device_put(a) for a in batch_of(args))
        optimizer = optax.adamw(1e-4, weight_decay=0.01)

        def loss_of(params, key):
            logits = model.apply(
                {"params": params}, images, tokens[:, None, :-1], True, rngs={"dropout": key}
            )["logits"][:, 0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        @jax.jit(donate_argnums=0)
        def update(state, key):
            params, moments = state
            loss, gradients = jax.value_and_grad(loss_of)(params, key)
            changes, moments = optimizer.update(gradients, moments, params)
            return (optax.apply_updates(params, changes), moments), loss

        params = jax.device_put(params)
        state = (params, jax.jit(optimizer.init)(params))
        losses = []

        def step() -> None:
            nonlocal state
            state, loss = update(state, jax.random.key(len(losses)))
            losses.append(float(loss))

        print(f"compile and first step: {turns.seconds(step):.1f} s")
        times = [(turns.seconds(step), ask("step")) for _ in range(args.rounds)]
        if args.dropout == 0:
            np.testing.assert_allclose(losses[0], ask("losses")[0], rtol=1e-5)
        turns.report("training step", *map(list, zip(*times, strict=True)))


if __name__ == "__main__":
    main()
