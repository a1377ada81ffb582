"""How networks learn: recipes, training, fine-tuning on a hold-out, generators, decoupling."""
