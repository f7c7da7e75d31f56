"""Figures that the pages show: the live overview, histories, cards of works and near-duplicates."""
