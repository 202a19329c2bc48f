"""The experiment: every part is this project's own."""

from counting_project.task import CountConfig
from jaxtag.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)


def get_config(steps: int = 60) -> Config:
    return Config(
        task=CountConfig(),
        batch_size=32,
        total_steps=steps,
        log_every=10,
        evaluate_every=20,
        checkpoint_every=20,
        metric_writers=("jsonl", "counting_project.parts:CsvMetricWriter"),
        callbacks=("counting_project.parts:CountSaves",),
        data=DataConfig(
            dataset="counting_project.data:Squares",
            image_size=16,
            crop_scale=(1.0, 1.0),
            num_threads=1,
        ),
        model=ModelConfig(backbone="counting_project.parts:SmallNet", kwargs={"width": 8}),
        augmentation=AugmentationConfig(custom=("counting_project.parts:darken",)),
        optimizer=OptimizerConfig(
            name="counting_project.parts:plain_adam",
            kwargs={"beta": 0.8},
            schedule="counting_project.parts:slow_start",
            learning_rate=0.03,
        ),
        evaluation=EvaluationConfig(
            batch_size=8, num_samples_shown=4, metrics=("counting_project.parts:within_half",)
        ),
    )
