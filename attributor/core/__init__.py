"""The method stage by stage: recall, re-ranking, quality, valuation, posting. It knows no transport."""
