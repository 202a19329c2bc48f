"""Tasks: what a loss, a prediction and a metric mean; `base` is their contract."""
