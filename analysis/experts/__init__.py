"""Laws of the loss against the number of experts, fitted and compared."""
