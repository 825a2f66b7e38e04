"""Fits FlowMeter's model on labelled flows, measures it, and writes it with the contract that the agent checks.

Arrows run downward only: `train` and `site` are programs; they use `card`, which uses `fitting`, which uses `candidates`;
below are `mixing`, `measures`, `weighting`, `flows` and `contract`. No feature is defined here: columns come from the binary.
"""
