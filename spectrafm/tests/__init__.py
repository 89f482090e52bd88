"""Tests of spectrafm, a module for each module."""
