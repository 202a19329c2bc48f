"""Tasks: what a loss, a prediction and a metric mean. `base` has the contract, a folder each task."""
