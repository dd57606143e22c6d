"""Like branches in the graph of a model: found, and written as one branch with stacked weights."""
