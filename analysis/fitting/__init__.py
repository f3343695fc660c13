"""Least squares, power laws, and what every fit returns."""
