"""Decisions about posted credits: releases, reversals, revaluations and disputes."""
