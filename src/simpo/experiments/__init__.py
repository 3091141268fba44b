"""The paper's experiments: a grid of runs -> figure, table, verdict."""
