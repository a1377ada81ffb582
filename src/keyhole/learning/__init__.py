"""How networks learn, as several roles need it: recipes, batches, training, the hold-out, generators, decoupling."""
