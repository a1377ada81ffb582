"""What several roles use to train networks: recipes, batches, training, the hold-out, generators, decoupling."""
