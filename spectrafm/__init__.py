"""Stellar labels with errors from any stellar spectrum."""
