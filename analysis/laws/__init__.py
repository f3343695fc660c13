"""Laws of the loss: what one is (law), a file for each (forms), and one fit of all (fit)."""
