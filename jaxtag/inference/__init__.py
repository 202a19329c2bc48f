"""Using trained models: predictions, features, and the files that they are written to."""
