"""Money paid for credits: terms, closing of periods, payouts and royalty statements."""
