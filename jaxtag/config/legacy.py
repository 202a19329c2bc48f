"""Configurations of jaxtag 0.1: one table of old names, for files and for the command line."""

from typing import Any

# Dotted names of 0.1 -> dotted names now.
RENAMED = {
    "criterion": "task.loss",
    "label_smoothing": "task.label_smoothing",
    "max_bad_steps": "max_consecutive_nonfinite",
    "stuck_after": "hang_timeout",
    "data.crop_area": "data.crop_scale",
    "data.center_crop": "data.eval_crop_pct",
    "data.grey": "data.grayscale",
    "data.workers": "data.num_workers",
    "data.threads": "data.num_threads",
    "data.max_broken_share": "data.max_corrupt_fraction",
    "text.vocab_size": "task.vocab_size",
    "text.length": "task.max_length",
    "text.lowercase": "task.lowercase",
    "text.captions_per_image": "task.captions_per_image",
    "model.encoder": "model.backbone",
    "model.arguments": "model.kwargs",
    "model.weights": "model.pretrained",
    "embed.labels": "task.label_field",
    "embed.size": "task.embedding_dim",
    "embed.pictures_per_class": "task.samples_per_class",
    "embed.arguments": "task.loss_kwargs",
    "tag.head": "task.head",
    "tag.groups": "task.num_queries",
    "tag.arguments": "task.loss_kwargs",
    "tag.max_positive_weight": "task.max_pos_weight",
    "augmentation.alternate": "augmentation.alternating_flip",
    "augmentation.crop_border": "augmentation.crop_padding_mode",
    "augmentation.colour_jitter": "augmentation.color_jitter",
    "augmentation.erasing": "augmentation.random_erasing",
    "augmentation.cutmix_share": "augmentation.mixup_switch_prob",
    "optimizer.arguments": "optimizer.kwargs",
    "optimizer.final_factor": "optimizer.min_lr_ratio",
    "optimizer.decay_rules": "optimizer.wd_mults",
    "optimizer.rate_rules": "optimizer.lr_mults",
    "optimizer.clip_norm": "optimizer.grad_clip_norm",
    "optimizer.accumulate": "optimizer.grad_accum_steps",
    "optimizer.lookahead": "optimizer.lookahead_steps",
    "optimizer.ema_moments": "optimizer.ema_bn_batches",
    "evaluation.pictures": "evaluation.num_samples_shown",
    "evaluation.mirror": "evaluation.tta_flip",
    "evaluation.shift": "evaluation.tta_shift",
    **{
        f"decoding.{name}": f"task.decoding.{name}"
        for name in (
            "method",
            "beam_size",
            "length_penalty",
            "early_stopping",
            "temperature",
            "top_k",
            "top_p",
        )
    },
}
_KWARGS = ("model.kwargs", "optimizer.kwargs", "task.loss_kwargs")  # were pairs in 0.1
# 0.1 kept the settings of every task in each file; these are the ones a task has.
_OF_TASK = {
    "caption": ("text.", "decoding.", "criterion", "label_smoothing"),
    "classify": ("criterion", "label_smoothing"),
    "embed": ("embed.", "criterion"),
    "tag": ("tag.", "criterion", "label_smoothing"),
}
_SECTIONS = ("text.", "decoding.", "embed.", "tag.", "criterion", "label_smoothing")


def modernize(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a config.json of 0.1 under today's names; those of today as they are.

    What has no `data.shuffle` was trained in the order of 0.1.
    """
    task, data = values.get("task"), values.get("data")
    if isinstance(data, dict) and "shuffle" not in data:
        values = {**values, "data": {**data, "shuffle": "stored"}}
    if not isinstance(task, str):
        return values
    modern: dict[str, Any] = {"task": {"name": task}}
    for name, value in _flat(values):
        if name == "task":
            continue
        if name.startswith(_SECTIONS) and not name.startswith(_OF_TASK.get(task, _SECTIONS)):
            continue
        _put(modern, RENAMED.get(name, name), value)
    return modern


def kwargs_of(value: Any) -> Any:
    """Pairs of 0.1, `(("depth", 4),)`, as a dictionary; anything else as it is."""
    if isinstance(value, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in value
    ):
        return {name: item for name, item in value}
    return value


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value))
    return pairs


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, name = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[name] = kwargs_of(value) if dotted in _KWARGS else value
