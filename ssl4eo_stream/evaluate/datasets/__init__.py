"""Labelled data sets, as their authors publish them."""
