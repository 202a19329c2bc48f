"""Time to caption a batch of pictures, greedy and with 4 beams, beside `generate` of transformers.

    python benchmarks/caption_generation.py --peer_python=/path/to/python

The same weights and pictures on both sides; the tokens must be the same.
"""

import tempfile
from pathlib import Path

import captioner_peer as common
import numpy as np
import turns

BEAMS = {"greedy": 1, "beam": 4}


def images_of(args) -> np.ndarray:
    size = (args.batch, args.image_size, args.image_size, 3)
    return np.random.RandomState(0).randn(*size).astype(np.float32)


def theirs(args) -> None:
    import torch

    model = common.peer_model(args).eval()
    # Untrained weights give nearly equal logits; larger ones make choices that rounding cannot
    # turn. No end is likely, so that all captions have the full length on both sides.
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            if parameter.ndim == 2:
                parameter *= 4
    model.save_pretrained(args.serve)
    pixels = torch.from_numpy(images_of(args).transpose(0, 3, 1, 2).copy())
    tokens = {}

    def caption(method: str) -> None:
        tokens[method] = model.generate(
            pixels,
            num_beams=BEAMS[method],
            max_length=args.length,
            do_sample=False,
            decoder_start_token_id=common.BOS,
            eos_token_id=common.EOS,
            pad_token_id=common.PAD,
        ).tolist()

    def answer(word: str):
        if word in BEAMS:
            return turns.seconds(lambda: caption(word))
        return tokens[word.removeprefix("tokens ")]

    turns.serve(answer)


def main() -> None:
    args = common.arguments(__doc__.splitlines()[0], batch=16, length=24).parse_args()
    turns.pin(args.threads)
    if args.serve:
        theirs(args)
        return
    import jax

    from jaxtag.decoding.generate import generate

    with tempfile.TemporaryDirectory() as folder, turns.peer(args, Path(folder)) as ask:
        for method in BEAMS:
            ask(method)
        model, params = common.our_model(args, Path(folder))
        variables, images = jax.device_put(({"params": params}, images_of(args)))
        for method, beams in BEAMS.items():

            def caption(method=method, beams=beams):
                output = generate(
                    model, variables, images, method=method, beam_size=beams, max_length=args.length
                )
                return np.asarray(output["tokens"])

            print(f"{method}, compile and first batch: {turns.seconds(caption):.1f} s")
            expected = np.array(ask(f"tokens {method}"))
            np.testing.assert_array_equal(caption()[:, : expected.shape[1]], expected)
            times = [(turns.seconds(caption), ask(method)) for _ in range(args.rounds)]
            turns.report(method, *map(list, zip(*times, strict=True)))


if __name__ == "__main__":
    main()
