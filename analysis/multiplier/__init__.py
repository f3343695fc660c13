"""How much compute a baseline needs for the losses of other models: one law of each model."""
