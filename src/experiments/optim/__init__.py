"""What steps parameters: groups and their rates, schedules, AdamW by rows, Muon."""
