"""Keys of what a study keeps that objectives write and samplers read; the rest of the format is the objective's."""

PREFIX = "softprune:"
# Names and directions of the objectives, and the requirements.
OBJECTIVE = f"{PREFIX}objective"
# What `SparsityConstraint.describe` says, or None.
CONSTRAINT = f"{PREFIX}constraint"
