"""Page of a sweep: one file of HTML, written again while the sweep runs."""
