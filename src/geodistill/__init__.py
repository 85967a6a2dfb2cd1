"""geodistill: distil a large transformer into a small one that keeps the shape of the teacher's feature space."""
