"""What a team ships: ONNX files, what they answer, how fast they are, and whether they may ship.

========== ===========================================================================
onnx_files a network as an ONNX file, in fp32 and int8; a file as a network
shipping   the cell that makes one file and runs it
shipped    which files a study ships, and the tables of what they answer
cards      a model card for each file
gate       a policy, and its verdict on a network against its reference
evidence   what the gate judges: variants of a study, or a pair of files and labelled images
latency    how long fp32 and int8 take, in pairs
========== ===========================================================================
"""
