"""Moving amounts of earlier postings: releases, reversals, re-attributions, and what another policy would have paid."""
