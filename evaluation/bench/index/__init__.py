"""`gmvaluator bench index`: indexing speed, and the costs and recall of quantisation, on realistic vectors."""
