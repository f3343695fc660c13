"""Looking inside finished models: which experts tokens read, and what each of them writes."""
