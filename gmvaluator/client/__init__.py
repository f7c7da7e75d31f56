"""Client library: `from gmvaluator.client.sync import AttributorClient`."""
