"""The names and the models of other packages, on our ops."""
