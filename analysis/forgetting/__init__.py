"""Learning and forgetting of a model that learns domains one after another."""
