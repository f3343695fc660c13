"""Page of an inspection: one file that draws its tables, and computes none of them."""
