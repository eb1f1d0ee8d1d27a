"""The main job: compress a trained network by every family at equal size, heal, compare."""
