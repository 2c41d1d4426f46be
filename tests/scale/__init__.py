"""Tests of oodbench/scale."""
