"""Every implementation of every kernel against its reference in float64, gradients included."""
