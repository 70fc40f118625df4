"""The steps of the road, in order; none imports another. `docs/flow.md` draws it.

=============  ==============================  ==============
step           takes                           hands on
=============  ==============================  ==============
reading        files                           Rows
chunking       Rows                            Chunk
windowing      Chunk                           Windows
batching       Windows                         PaddedBatch
scoring        PaddedBatch                     BatchLogits
decoding       BatchLogits                     AnsweredChunk
writing        AnsweredChunk                   Arrow batches
=============  ==============================  ==============
"""
