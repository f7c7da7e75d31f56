"""The counterfactual benchmark: what a small generator draws when it is trained without the credited works.

It measures causes, not only similarity.
"""
