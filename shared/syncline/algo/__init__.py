"""All mathematics of Syncline: pair rules, advantages, losses, algorithms, the sync schedule and the statistics of an
evaluation. Pure torch (numpy where no torch is at hand) and stdlib.

Read in this order: `algorithm` (what an algorithm is), `pairs`, `advantages`, `losses`, then `dpo` and `grpo`.
To add an algorithm, write one file with a class like those. Its options, with their defaults, are a model in
`syncline.algorithmspec`, which names the class, and a line in the union there.

Formulas cite the equations and sections of arXiv 2506.21495 ("the paper"), or say where else they come from: its
authors published their training code in fairseq2. Tensors carry their shape as a suffix:
    R rows (one completion each)   T target tokens   P preference pairs   V vocabulary
"""
