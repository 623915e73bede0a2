"""Rules that compare the updates of a round, and what can be done to the updates before a rule. One method, one file.

A rule here is a function of the updates' scalar products, the Gram matrix G[i, j] = ⟨x_i, x_j⟩, which is small and is
added up tensor by tensor (`grams`). Its result is a linear combination of the updates.
"""
