"""Months of the ledger: closing them, signing what they closed with, and paying what they made payable."""
