"""Loss of a model without some of its experts, beside as many others: with intervals."""
