"""Conditional G-SchNet: molecules, clusters and crystals grown atom by atom, on target."""
