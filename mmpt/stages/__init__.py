"""The stage bodies: stage NAME of the table in mmpt/build/stage_table.py is function NAME of the module NAME here.

A body reads its inputs, calls what makes or measures in the packages below, and writes its outputs. In a profile with
`inputs:`, mmpt.shards.imported and mmpt.train.imported hold the bodies of the import stages.
"""
