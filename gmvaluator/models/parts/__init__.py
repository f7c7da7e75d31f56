"""What each model of a profile is and which files it needs, told without importing it. Start at `selection`."""
