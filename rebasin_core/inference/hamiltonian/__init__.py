"""Hamiltonian Monte Carlo: dynamics, trajectories, adaptation and statistics of parallel chains."""
