"""How models differ beside the noise of their seeds."""
