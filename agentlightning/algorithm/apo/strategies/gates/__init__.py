"""Gates: which children are worth validation rollouts. One file each; the names are in `strategies`."""
