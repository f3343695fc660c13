"""Runs that shrink a named interval most per FLOP, before they are run."""
