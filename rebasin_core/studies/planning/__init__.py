"""Plans: the graph of stages of a run or a study, from its file."""
