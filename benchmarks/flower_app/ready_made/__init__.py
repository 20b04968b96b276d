"""A Flower app whose clients return ready-made weights."""
