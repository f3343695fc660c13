"""Loss surfaces over size and tokens beside E + A/N^alpha + B/D^beta, compared by hold-out."""
