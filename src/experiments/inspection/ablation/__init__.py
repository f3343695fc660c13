"""What a model loses without some of its experts, beside as many others: with intervals."""
