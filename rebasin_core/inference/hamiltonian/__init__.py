"""Hamiltonian Monte Carlo: dynamics, trajectories, adaptation and statistics of chains that run side by side."""
