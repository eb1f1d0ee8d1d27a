"""``deeptn demo``: compress a trained network with several families at equal size, heal, and compare."""
