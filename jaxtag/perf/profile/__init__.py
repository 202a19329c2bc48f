"""Profile of a training step: times, costs and memory, by kernel and by module."""
