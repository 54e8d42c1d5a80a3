"""Deployment of files: their predictions, their latency, and the evidence for the gate.

========== ===========================================================================
onnx_files export to ONNX in fp32 and int8; an ONNX file as a network
onnx_graph what an ONNX file holds: its layers and the type of their weights
runtimes   files of any runtime as networks: ONNX Runtime, LiteRT, OpenVINO, torch.export
feeding    labelled images, fed to files in batches
answers    what a file answers, read as classes, and a table of it
converters how files of each runtime are made, and quantized
converting files made for other runtimes or in integers, and compared with their source
several    one network on several runtimes, beside its simulation
restoring  which layers of an int8 file that somebody made hurt which group
shipping   the cell that exports one file and runs it on the test set
shipped    which files of a study are deployed, and tables of their predictions
cards      a model card for each file
evidence   what the gate judges: variants of a study, or a pair of files and labelled images
latency    latency of pairs of fp32 and int8 files
========== ===========================================================================
"""
