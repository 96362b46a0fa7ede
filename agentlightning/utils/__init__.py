"""Small things that several rooms share; each module says who uses it."""
