"""Small grey pictures with classes, as profiles see them: what criteria and the counterfactual benchmark share."""
