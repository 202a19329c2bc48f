"""Meshes and shardings, and the processes of a job: how they connect, coordinate and end."""
